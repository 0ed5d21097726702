// SPDX-License-Identifier: Apache-2.0

package portholder

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Skip(err)
		}
		defer ln.Close()
		pc, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		for network, port := range map[string]int{"tcp": ln.Addr().(*net.TCPAddr).Port, "udp": pc.LocalAddr().(*net.UDPAddr).Port} {
			h, ok := Find(network, uint16(port))
			if !ok || h.PID != os.Getpid() || h.UID != os.Getuid() || int(h.Addr.Port()) != port || !strings.Contains(h.String(), h.Command) || h.Command == "" {
				t.Errorf("%s at %s: %v, %t", network, at, h, ok)
			}
			if h, ok := Find(map[string]string{"tcp": "udp", "udp": "tcp"}[network], uint16(port)); ok && h.PID == os.Getpid() && int(h.Addr.Port()) != port {
				t.Errorf("another protocol: %v", h)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0\n")
	f.Add("   0: 00000000000000000000000001000000:1F90 0:0 0A 0 0 0 0 0 7\n")
	f.Fuzz(func(t *testing.T, s string) {
		if h, _, ok := parse(strings.NewReader(s), "tcp", 8080); ok && h.Addr.Port() != 8080 {
			t.Errorf("%v", h)
		}
	})
}
