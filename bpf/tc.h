/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The programs on interfaces. What a workload's interface sends is decided
 * here when no hook of a socket has: machines on taps, kernels of their own
 * (gVisor, Kata), frames past the IP stack. */
#ifndef EGRESSD_TC_H
#define EGRESSD_TC_H

#include "assign.h"

/* 802.1X and LLDP (linux/if_ether.h has the first only). */
#define ETHERTYPE_EAPOL 0x888e
#define ETHERTYPE_LLDP 0x88cc

#define AF_PACKET 17
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

/* Whether skb_egress has decided about the packet: it is one of a connected,
 * captured socket of this kernel. It must also be that socket's own, with its
 * addresses: a tunnel's packet still carries the socket of what is inside, and
 * a frame that of the packet socket. */
static __always_inline bool socket_decided(struct __sk_buff *skb, const struct packet *p,
					   bool *inspected)
{
	const __u32 *dst = (const __u32 *)p->to.addr;
	struct bpf_sock *sk = full_socket(skb);
	struct egd_socket *st;

	if (!sk || !p->parsed)
		return false;
	if (!sk || sk->protocol != p->to.proto ||
	    sk->type != (p->to.proto == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM) ||
	    sk->dst_port != p->to.port || sk->src_port != bpf_ntohs(p->sport))
		return false;
	if (p->to.family == AF_INET) {
		if (sk->dst_ip4 != dst[3])
			return false;
	} else if (sk->dst_ip6[0] != dst[0] || sk->dst_ip6[1] != dst[1] ||
		   sk->dst_ip6[2] != dst[2] || sk->dst_ip6[3] != dst[3]) {
		return false;
	}
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	*inspected = st && st->watched && st->verdict == EGD_INSPECT;
	return (st && st->watched) || find_skb_workload(skb) != NULL;
}

/* The tables' verdict for a packet. */
static __always_inline __u8 verdict_of(const struct pkt_ctx *w, const struct egd_iface *in)
{
	struct egd_addr_val v;

	if (w->p.to.port == PORT_DNS)
		return EGD_PROXY;
	v = policy_verdict(&w->p.to, in->policy);
	if (v.verdict == EGD_DENY && (in->flags & EGD_IF_ALLOW_ANY))
		return EGD_DIRECT;
	/* Packets are not sent elsewhere here: the forwarding core knows the
	 * endpoints as well, and has nothing for UDP. */
	if (v.slots && v.verdict != EGD_DENY)
		return w->p.to.proto == IPPROTO_TCP ? EGD_PROXY : EGD_DENY;
	return v.verdict;
}

/* A datagram of a captured pod's socket to the gate: sendto() was redirected
 * there, and skb_egress published it. Nobody else's may come near the listeners:
 * they would look for whom its source address belongs to. */
static __always_inline bool is_redirected(struct __sk_buff *skb, const struct pkt_ctx *w,
					  const struct egd_config *cfg)
{
	struct bpf_sock *sk = full_socket(skb);

	if (!sk || !is_own_port(&w->p.to))
		return false;
	return sk && (sk->family == AF_INET || sk->family == AF_INET6) && sk->type == SOCK_DGRAM &&
	       sk->protocol == w->p.to.proto && sk->src_port == bpf_ntohs(w->p.sport) &&
	       find_skb_workload(skb) != NULL;
}

/* Why the first packet of a flow with this verdict is not let pass, or EGD_R_NONE. */
static __always_inline __u8 denial_reason(const struct packet *p, __u8 verdict)
{
	bool tcp = p->to.proto == IPPROTO_TCP, syn = tcp && (p->flags & TCP_SYN);

	if (verdict == EGD_DENY || (!tcp && verdict != EGD_DIRECT && p->to.port != PORT_DNS))
		return EGD_R_NO_RULE;
	if (syn && (p->flags & (TCP_ACK | TCP_RST | TCP_FIN)))
		/* An answer to a SYN that nobody saw come in, or nonsense. */
		return p->flags & (TCP_RST | TCP_FIN) ? EGD_R_MALFORMED : EGD_R_NO_STATE;
	if (tcp && !syn && verdict == EGD_INSPECT)
		return EGD_R_NO_STATE;
	if (syn && verdict == EGD_INSPECT && p->off != p->end)
		return EGD_R_SEQUENCE; /* Fast Open; the sender tries without */
	return EGD_R_NONE;
}

/* The first packet of a flow, or one of a flow that nobody knows. */
static __noinline int new_flow(struct pkt_ctx *w, const struct egd_iface *in,
			       const struct egd_config *cfg)
{
	if (!w || !in || !cfg)
		return TC_DROP;

	bool tcp = w->p.to.proto == IPPROTO_TCP, syn = tcp && (w->p.flags & TCP_SYN);
	struct egd_flow f = {
		.opened = w->now,
		.seen = w->now,
		.sent = w->p.end - w->p.l2,
		.epoch = cfg->epoch,
		.policy = in->policy,
		.workload = in->workload,
		.mode = in->mode,
	};
	int outcome = TC_REFUSE;
	__u8 reason;

	f.verdict = verdict_of(w, in);
	reason = denial_reason(&w->p, f.verdict);
	/* Who may not be reached gets no reset either: it would carry numbers
	 * that the workload chose. */
	if (tcp && !syn)
		outcome = reason == EGD_R_NO_RULE ? TC_REFUSE : TC_RESET;
	/* The end of what is over: nothing to say. */
	if (reason != EGD_R_NONE && tcp && !syn && w->p.off == w->p.end && in->mode != EGD_AUDIT) {
		count(reason);
		return w->p.flags & (TCP_RST | TCP_FIN) ? TC_DROP : outcome;
	}
	if (reason == EGD_R_SEQUENCE) {
		count(reason);
		return TC_DROP;
	}
	if (reason != EGD_R_NONE) {
		if (deny_packet(w, in, NULL, reason))
			return outcome;
		f.verdict = EGD_DIRECT;
		f.flags |= EGD_F_REPORTED;
	}
	if (f.verdict == EGD_INSPECT)
		reason = expect_hello(&w->key);
	if (reason == EGD_R_NONE || f.flags & EGD_F_REPORTED)
		reason = add_flow(&w->key, in, &f);
	if (reason != EGD_R_NONE) {
		deny_packet(w, in, NULL, reason); /* also in audit mode: it cannot be watched */
		return TC_REFUSE;
	}
	if (f.verdict == EGD_PROXY) {
		count(w->p.to.port == PORT_DNS ? EGD_C_DNS : EGD_C_PROXY);
		return TC_ASSIGN;
	}
	if (f.verdict == EGD_DIRECT && !(f.flags & EGD_F_REPORTED)) {
		count(EGD_C_DIRECT);
		report_packet(w, in, NULL, EGD_R_NONE, EGD_DIRECT, false);
	}
	return TC_PASS;
}

/* The policy has changed since the verdict: ask the tables again. */
static __always_inline bool flow_allowed(struct pkt_ctx *w, const struct egd_iface *in,
					 struct egd_flow *f)
{
	struct egd_hello *h;

	f->policy = in->policy;
	f->mode = in->mode;
	switch (verdict_of(w, in)) {
	case EGD_DIRECT:
		return true;
	case EGD_PROXY: /* what is proxied is decided there */
		return w->p.to.proto == IPPROTO_TCP || f->verdict == EGD_PROXY;
	case EGD_INSPECT:
		if (f->verdict != EGD_INSPECT)
			return f->verdict == EGD_PROXY;
		if (!(f->flags & EGD_F_SNI_ALLOWED))
			return true;
		h = bpf_map_lookup_elem(&egd_flow_hello, &w->key);
		return h && flow_name_allowed(&w->key, h, f->policy);
	}
	return f->verdict == EGD_PROXY;
}

/* A packet of a known flow. */
static __noinline int known_flow(struct __sk_buff *skb, struct pkt_ctx *w,
				 const struct egd_iface *in, const struct egd_config *cfg,
				 struct egd_flow *f)
{
	if (!w || !in || !cfg || !f)
		return TC_DROP;

	bool tcp = w->p.to.proto == IPPROTO_TCP;

	if (f->cut) {
		count(f->cut);
		return TC_REFUSE;
	}
	if (tcp || !(f->flags & EGD_F_INBOUND))
		f->seen = w->now;
	f->sent += w->p.end - w->p.l2;
	if (tcp && (w->p.flags & TCP_FIN))
		f->flags |= EGD_F_FIN;
	if (tcp && (w->p.flags & TCP_RST))
		f->flags |= EGD_F_RESET;
	if (f->flags & EGD_F_INBOUND)
		return TC_PASS;
	if (f->epoch != cfg->epoch && !(f->flags & EGD_F_REPORTED)) {
		if (!flow_allowed(w, in, f))
			return block_flow(w, in, f, NULL, EGD_R_CHANGED, w->p.seq);
		f->epoch = cfg->epoch;
	}
	switch (f->verdict) {
	case EGD_DIRECT:
		return TC_PASS;
	case EGD_INSPECT:
		return inspect_flow(skb, w, in, f);
	case EGD_PROXY:
		return TC_ASSIGN;
	}
	return TC_DROP;
}

/* Does what a decision comes to. */
static __always_inline int apply(struct __sk_buff *skb, struct pkt_ctx *w,
				 const struct egd_iface *in, const struct egd_config *cfg,
				 int outcome)
{
	int reason;

	switch (outcome) {
	case TC_ASSIGN:
		reason = assign_listener(skb, w, in, cfg);
		if (reason == EGD_R_NONE)
			return TC_PASS;
		count(reason & (EGD_R_MAX - 1));
		report_packet(w, in, NULL, reason, EGD_DENY, false);
		return refuse_packet(skb, &w->p);
	case TC_REFUSE:
		return refuse_packet(skb, &w->p);
	case TC_RESET:
		return reset_both(skb, &w->p, w->reset_seq);
	}
	return outcome;
}

/* Why nobody can say whose packet this is and where to, or EGD_R_NONE. */
static __always_inline __u8 unreadable(const struct packet *p, __u8 bad,
				       const struct egd_config *cfg)
{
	if (bad == EGD_R_NONE && !is_ip(p))
		return EGD_R_ETHERTYPE;
	if (bad == EGD_R_NONE && !p->parsed)
		return EGD_R_SOCKET_TYPE;
	return cfg->ready ? bad : EGD_R_NO_CONFIG;
}

/* A packet that skb_egress has decided about. Frames with the addresses of an inspected
 * connection may have gone before: two who send one stream, each of whom shows the
 * beginning of another hello, could make up a third. */
static __always_inline int by_socket(struct __sk_buff *skb, struct pkt_ctx *w,
				     const struct egd_iface *in, const struct egd_config *cfg,
				     bool inspected)
{
	struct egd_flow *f = inspected ? bpf_map_lookup_elem(&egd_flows, &w->key) : NULL;

	if (f && f->cut)
		return apply(skb, w, in, cfg, TC_REFUSE);
	if (f && !(f->flags & EGD_F_INBOUND))
		return apply(skb, w, in, cfg, block_flow(w, in, f, NULL, EGD_R_SEQUENCE, w->p.seq));
	count(EGD_C_BY_SOCKET);
	return TC_PASS;
}

/* The flow that a packet belongs to; NULL: it is the first of one. */
static __always_inline struct egd_flow *find_flow(const struct pkt_ctx *w)
{
	struct egd_flow *f = bpf_map_lookup_elem(&egd_flows, &w->key);
	bool inbound = f && (f->flags & EGD_F_INBOUND);

	/* A SYN that is sent again, or a new connection from an old port: both begin
	 * anew. A proxied one is the listener's to judge. */
	if (f && w->p.to.proto == IPPROTO_TCP && (w->p.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	    (f->verdict != EGD_PROXY || inbound || f->cut))
		return NULL;
	if (inbound && w->p.to.proto == IPPROTO_UDP && w->now - f->seen > REPLY_TIME)
		return NULL;
	return f;
}

/* What comes out of a workload's interface. */
static __always_inline int from_workload(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct egd_iface *in = bpf_map_lookup_elem(&egd_ifaces, &ifindex);
	struct egd_config *cfg = get_config();
	struct pkt_ctx w = {};
	bool inspected = false;
	struct egd_flow *f;
	__u8 bad;

	if (!in || !cfg) {
		count(in ? EGD_R_NO_CONFIG : EGD_R_NO_WORKLOAD);
		return TC_DROP;
	}
	if (in->mode == EGD_OFF)
		return TC_PASS;
	bad = read_frame(skb, in->flags & EGD_IF_L3, &w.p);
	w.key.ifindex = ifindex;
	if (bad == EGD_R_NONE && is_control(&w.p)) {
		count(EGD_C_CONTROL);
		return TC_PASS;
	}
	bad = unreadable(&w.p, bad, cfg);
	if (bad != EGD_R_NONE)
		return deny_packet(&w, in, NULL, bad) ? TC_DROP : TC_PASS;
	w.now = bpf_ktime_get_ns();
	set_key(&w, ifindex, true);
	w.reset_seq = w.p.seq;
	if (socket_decided(skb, &w.p, &inspected))
		return by_socket(skb, &w, in, cfg, inspected);
	if (is_gate(cfg, &w.p.to)) {
		if (is_redirected(skb, &w, cfg)) {
			count(EGD_C_BY_SOCKET);
			return TC_PASS;
		}
		if (!deny_packet(&w, in, NULL, EGD_R_OWN_PORT))
			return TC_DROP;
		return apply(skb, &w, in, cfg, TC_REFUSE);
	}
	f = find_flow(&w);
	return apply(skb, &w, in, cfg, f ? known_flow(skb, &w, in, cfg, f) : new_flow(&w, in, cfg));
}

/* Puts the port of DNS servers into a datagram of the DNS proxy. */
static __always_inline void set_port_53(struct __sk_buff *skb, const struct packet *p, __u16 own)
{
	__u16 port = PORT_DNS;

	bpf_l4_csum_replace(skb, p->l4 + 6, own, port, 2 | BPF_F_MARK_MANGLED_0);
	bpf_skb_store_bytes(skb, p->l4, &port, 2, 0);
}

/* No hook sees a packet socket being made in a cgroup that is known by its name;
 * its owner is at work now. For uplink, which has no room on the stack. Whether the frame
 * may go on to what its socket's cgroup is: not when nobody can say whose it is. */
static __always_inline bool follow_frame(struct __sk_buff *skb)
{
	struct egd_config *cfg = get_config();
	struct bpf_sock *sk = full_socket(skb);

	if (!cfg || !sk || skb->ingress_ifindex)
		return true;
	if (!sk || sk->family != AF_PACKET)
		return true;
	if ((cfg->above && egd_follow() == EGD_NOBODY) || egd_container() == EGD_NOBODY) {
		count(EGD_R_NO_WORKLOAD);
		return false;
	}
	return true;
}

/* Frames of packet sockets, which no hook of sockets sees. */
static __noinline int frame(struct __sk_buff *skb)
{
	struct egd_iface who = {};
	struct bpf_sock *sk = full_socket(skb);
	struct egd_workload *wl;
	struct pkt_ctx w = {};

	if (!sk || sk->family != AF_PACKET)
		return TC_PASS;
	wl = find_skb_workload(skb);
	/* Nobody's: not everything on the node is captured. */
	if (!wl || (wl->flags & EGD_WL_EXEMPT) || wl->mode == EGD_OFF)
		return TC_PASS;
	read_frame(skb, false, &w.p);
	if (!skb->vlan_present &&
	    (is_control(&w.p) || w.p.ethertype == bpf_htons(ETHERTYPE_EAPOL) ||
	     w.p.ethertype == bpf_htons(ETHERTYPE_LLDP))) {
		count(EGD_C_CONTROL);
		return TC_PASS;
	}
	who.workload = wl->id;
	who.policy = wl->policy;
	who.mode = wl->mode;
	w.key.ifindex = skb->ifindex;
	return deny_packet(&w, &who, NULL, EGD_R_FRAME) ? TC_DROP : TC_PASS;
}

/* What leaves by an interface: hooks of sockets have decided about
 * packets of the node's own sockets, the workload's interface about what was
 * forwarded. What is left are frames of packet sockets of this node. */
static __always_inline int uplink(struct __sk_buff *skb)
{
	return skb->ingress_ifindex ? TC_PASS : frame(skb);
}

/* What goes into a workload's interface passes, but for frames of packet sockets:
 * it is seen for what it tells about the other direction. */
static __noinline int to_workload(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct egd_iface *in = bpf_map_lookup_elem(&egd_ifaces, &ifindex);
	struct egd_config *cfg = get_config();
	struct egd_flow *f, inbound = {};
	struct pkt_ctx w = {};
	bool tcp, opens, over, dns;

	if (!in || in->mode == EGD_OFF || read_frame(skb, in->flags & EGD_IF_L3, &w.p) ||
	    !w.p.parsed)
		return TC_PASS;
	w.now = bpf_ktime_get_ns();
	/* The DNS proxy answers with the address of the server that was asked,
	 * which it can choose, and with its own port, which it can't. */
	dns = cfg && w.p.to.proto == IPPROTO_UDP && !skb->ingress_ifindex &&
	      w.p.sport == cfg->dns_port[0];
	if (dns)
		w.p.sport = PORT_DNS;
	set_key(&w, ifindex, false);
	tcp = w.p.to.proto == IPPROTO_TCP;
	opens = tcp && (w.p.flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	f = bpf_map_lookup_elem(&egd_flows, &w.key);
	/* A connection to an old port of one that is over is another's. */
	over = f && !(f->flags & EGD_F_INBOUND) &&
	       (f->cut || (f->flags & EGD_F_RESET) || (f->heard & EGD_H_RESET));
	if (f && !(opens && over)) {
		f->seen = w.now;
		f->received += w.p.end - w.p.l2;
		if (tcp && (w.p.flags & TCP_FIN))
			f->heard |= EGD_H_FIN;
		if (tcp && (w.p.flags & TCP_RST))
			f->heard |= EGD_H_RESET;
		if (tcp && f->verdict == EGD_INSPECT && !(f->flags & EGD_F_INBOUND))
			track_ack(&w, f);
		if (dns && f->verdict == EGD_PROXY)
			set_port_53(skb, &w.p, cfg->dns_port[0]);
		return TC_PASS;
	}
	/* A datagram from a DNS server answers a question that went to the
	 * proxy: it must not open the way to that server. */
	if (!opens && (tcp || w.p.sport == PORT_DNS))
		return TC_PASS;
	inbound.opened = inbound.seen = w.now;
	inbound.received = w.p.end - w.p.l2;
	inbound.policy = in->policy;
	inbound.workload = in->workload;
	inbound.mode = in->mode;
	inbound.verdict = EGD_DIRECT;
	inbound.flags = EGD_F_INBOUND;
	if (add_flow(&w.key, in, &inbound))
		count(EGD_R_QUOTA); /* its replies will not pass */
	else
		count(EGD_C_INBOUND);
	return TC_PASS;
}

#endif
