// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// tty is a terminal with a command on it.
type tty struct {
	t        *testing.T
	keyboard *os.File
	text     // what the command wrote
}

func (y *tty) resize(columns uint16) {
	y.t.Helper()
	if err := unix.IoctlSetWinsize(int(y.keyboard.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *tty) types(keys string) {
	y.t.Helper()
	if _, err := y.keyboard.WriteString(keys); err != nil {
		y.t.Fatal(err)
	}
}

// sees waits for some text. What changes only in part is drawn in part, so that the
// terminal gets another size now and then: then all is drawn.
func (y *tty) sees(what string) {
	y.t.Helper()
	looks := uint16(0)
	eventually(y.t, soon, what, func() bool {
		if looks++; looks%20 == 0 {
			y.resize(80 + looks%40/20)
		}
		return strings.Contains(y.String(), what)
	})
}

// startTTY starts a command on a terminal of its own, of 80 columns and 24 lines.
func startTTY(t *testing.T, cmd *world.Cmd) *tty {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	y := &tty{t: t, keyboard: keyboard}
	y.resize(80)
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ends := make(chan struct{})
	go func() {
		defer close(ends)
		buf := make([]byte, 4096)
		for {
			n, err := keyboard.Read(buf)
			_, _ = y.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		<-ends
		keyboard.Close()
	})
	return y
}

// TestTop: a denial is there as it comes, is explained with what would allow it, and the
// next daemon is found. Without a terminal there is a table, or an error that says so.
func TestTop(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	dir := n.d.StateDir()
	top := n.d.Command(t.Context(), "top", "--state-dir", dir)
	shown := startTTY(t, top)
	shown.sees("nothing was decided yet")
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		n.probe(t, n.in, "dial", hostPort(addr, 1001))
	}
	shown.sees("> ")
	shown.types("\r")
	shown.sees("VERDICT")
	shown.sees(world.StrangerV4)
	shown.sees(world.StrangerV6)
	shown.types("/" + world.StrangerV4 + "\r\r")
	shown.sees("no-rule")
	shown.types("\r")
	shown.sees("This would allow it")
	shown.types("\x7f") // back

	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	shown.sees("NOT CONNECTED")
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	shown.sees("connected again")
	shown.types("q")
	if err := top.Wait(); err != nil {
		t.Errorf("%v:\n%q", err, shown.String())
	}
	shown.sees("\x1b[?1049l") // the terminal is given back; what reads it may be behind

	n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 1002))
	table := func() string {
		out, err := n.d.Command(t.Context(), "top", "--once", "--state-dir", dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	eventually(t, soon, "the denial in the table", func() bool { return strings.Contains(table(), world.StrangerV4+" ") })
	var sheet struct {
		Workloads []struct {
			Denied int
			Hosts  []struct {
				Name   string
				Denied int
			}
		}
	}
	out, err := n.d.Command(t.Context(), "top", "--once", "-o", "json", "--state-dir", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &sheet); err != nil || len(sheet.Workloads) != 1 || sheet.Workloads[0].Denied != 1 || sheet.Workloads[0].Hosts[0].Name != world.StrangerV4 {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := n.d.Command(t.Context(), "top", "--state-dir", dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "egressd flows") {
		t.Errorf("without a terminal: %v: %s", err, out)
	}
}
