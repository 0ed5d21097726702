// SPDX-License-Identifier: Apache-2.0

package flow

// After returns the events that are kept from a number on (see End), oldest first: as
// many as were asked for, or up to a batch more. next is the number to go on with, gone
// how many on the way are not kept any more. Who asks now and then costs nothing in
// between, as a follower does.
func (l *Log) After(from uint64, enough int) (events []Event, next, gone uint64) {
	var buf [batch]Event
	for next = from; len(events) < enough; {
		n, to, lost := l.read(next, &buf)
		events, next, gone = append(events, buf[:n]...), to, gone+lost
		if n < batch {
			break
		}
	}
	return events, next, gone
}
