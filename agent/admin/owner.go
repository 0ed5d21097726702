// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net"
	"net/http"
	"net/netip"
	osuser "os/user"
	"strconv"

	"github.com/egressd/egressd/internal/sockdiag"
)

// onlyOwners serves requests on loopback of root and the admin group: the kernel says
// whose the socket at the other end is. Whoever that cannot be said of is refused.
func onlyOwners(group uint32, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := ownerOf(r, group); !ok || !p.may(group, false) {
			http.Error(w, "only root and the group of \"egressd run --admin-group\" may read here; run it with sudo", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ownerOf is who made the socket that a request came from; groups are looked up when
// there is one that matters.
func ownerOf(r *http.Request, group uint32) (p peer, ok bool) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return p, false
	}
	at, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return p, false
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return p, false
	}
	if p.uid, err = sockdiag.Owner(from, at); err != nil {
		return p, false
	}
	if p.uid != 0 && group != 0 {
		p.groups = groupsOf(p.uid)
	}
	return p, true
}

// groupsOf are the groups that a user is in by the node's files.
func groupsOf(uid uint32) (out []uint32) {
	u, err := osuser.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			out = append(out, uint32(n))
		}
	}
	return out
}
