// SPDX-License-Identifier: Apache-2.0

// Package sdnotify tells a service manager how the daemon is (sd_notify(3)).
// Without one, which is when NOTIFY_SOCKET is not set, it does nothing.
package sdnotify

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/egressd/egressd/internal/quote"
)

// Manager is the service manager that NOTIFY_SOCKET leads to. The nil Manager
// is none. A message that can't be sent is logged.
type Manager struct{ log *slog.Logger }

// New returns the service manager of this process.
func New(log *slog.Logger) *Manager { return &Manager{log} }

// Ready says that the service is up, or has reloaded. status is for people.
func (m *Manager) Ready(status string) { m.send(daemon.SdNotifyReady + "\n" + line(status)) }

// Reloading says that a reload begins; Ready ends it.
func (m *Manager) Reloading() {
	m.send(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the service ends.
func (m *Manager) Stopping(status string) { m.send(daemon.SdNotifyStopping + "\n" + line(status)) }

// Status is for people.
func (m *Manager) Status(status string) { m.send(line(status)) }

// Alive resets the watchdog.
func (m *Manager) Alive() { m.send(daemon.SdNotifyWatchdog) }

// WatchdogInterval is how often to call Alive: half of the time after which the
// manager ends the process (WATCHDOG_USEC); 0: it does not.
func (m *Manager) WatchdogInterval() time.Duration {
	if m == nil {
		return 0
	}
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("the service manager's watchdog is not served", "error", err)
	}
	return d / 2
}

// line keeps a status from being more than one assignment.
func line(status string) string { return "STATUS=" + quote.Line(status) + "\n" }

func (m *Manager) send(state string) {
	if m == nil {
		return
	}
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("the service manager could not be told", "error", err)
	}
}
