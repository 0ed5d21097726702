// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

// TestOwner: a connection's other end has an owner, in both families, and one that is
// not there has none.
func TestOwner(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		src, dst := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())
		if uid, err := Owner(src, dst); err != nil || int(uid) != os.Getuid() {
			t.Errorf("%s: %d, %v", at, uid, err)
		}
		if uid, err := Owner(netip.AddrPortFrom(src.Addr(), 1), netip.AddrPortFrom(dst.Addr(), 2)); err == nil {
			t.Errorf("%s: nobody's socket is %d's", at, uid)
		}
	}
}
