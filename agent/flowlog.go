// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/egressd/egressd/internal/flowlog"
	"github.com/egressd/egressd/loader/telemetry"
)

// flowLogWait is how long an end waits for who takes the flow log.
const flowLogWait = time.Second

// openFlowLog opens the flow log, if the options want one, and has it told of everything
// that is recorded.
func (a *Agent) openFlowLog() (err error) {
	o := a.opts.FlowLog
	o.Log = a.log
	if a.flowLog, err = flowlog.Open(o); err != nil || a.flowLog == nil {
		return err
	}
	a.recorder.TellAll(a.flowLog)
	a.tellMissing()
	return nil
}

// tellMissing has the flow log say how many events of the kernel nobody has read.
func (a *Agent) tellMissing() {
	if a.flowLog == nil {
		return
	}
	if counters, err := a.datapath.Counters(); err == nil { // else the next time says it
		a.flowLog.Missing(counters[telemetry.CounterLost])
	}
}
