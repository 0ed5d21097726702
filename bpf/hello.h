/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A streaming parser for the ClientHello (RFC 8446 section 4.1.2, RFC 6066
 * section 3), over the payload of outgoing TCP segments.
 *
 * It keeps its place in socket storage, byte by byte, so that a hello may come
 * in one write or in many, down to single bytes, and over any number of TLS
 * records. Only the name is kept; everything else is skipped. The parser is as
 * strict as internal/peek, which reads the same in user space: a second
 * server_name, a second name in one, a length that does not add up, or bytes
 * behind the extensions make the hello malformed.
 *
 * What was read so far is let pass: a server can do nothing with a hello that
 * is not complete, and the segment that completes it is judged.
 *
 * A server may ask for a second hello (HelloRetryRequest, RFC 8446 section
 * 4.1.4) and takes the name from that one. So the records behind the first are
 * read on, up to one that tells that no second hello can come: application data,
 * or what TLS 1.2 says next. Before a second hello there may be a
 * change_cipher_spec (appendix D.4), alerts that a server ignores, and, if the
 * first hello announced it, early data, which the server skips (section 4.2.10).
 * Behind a change_cipher_spec a handshake record may also be an encrypted one of TLS
 * 1.2 (a resumed session's Finished): it is taken for a hello only if it begins as
 * one does, which one such record of 20,000 does by chance.
 */
#ifndef EGRESSD_HELLO_H
#define EGRESSD_HELLO_H

#include "kept.h"

/* What the bytes so far are. */
#define HELLO_MORE 0       /* a beginning of a hello */
#define HELLO_DONE 1       /* a whole hello; the name is in the state */
#define HELLO_NOT_TLS 2    /* not a TLS handshake */
#define HELLO_MALFORMED 3  /* a handshake, but no good ClientHello */
#define HELLO_SETTLED 4    /* behind a whole hello: no second one can come */
#define HELLO_OTHER_NAME 5 /* the second hello's name is not the first one's */

#define MAX_RECORD 16384
#define MAX_HELLO 65536
/* No server takes a longer one (OpenSSL: 131,396 bytes). */
#define MAX_ANY_HELLO 0x2ffff
/* Records that are not read: encrypted ones are longer (RFC 5246 section 6.2.3). */
#define MAX_OPAQUE_RECORD (16384 + 2048)

#define RECORD_CCS 20
#define RECORD_HANDSHAKE 22
#define RECORD_DATA 23

/* The next field. */
enum {
	F_HS_TYPE = 0,
	F_HS_LEN,
	F_FIXED, /* legacy_version and random */
	F_SESSION_LEN,
	F_SUITES_LEN,
	F_COMPRESSION_LEN,
	F_EXTENSIONS_LEN,
	F_EXT_TYPE,
	F_EXT_LEN,
	F_LIST_LEN,
	F_NAME_TYPE,
	F_NAME_LEN,
	F_NAME,
};

static __always_inline void want(struct egd_hello *h, __u8 field, __u32 bytes)
{
	h->field = field;
	h->need = bytes;
	h->acc = 0;
}

static __always_inline void skip_to(struct egd_hello *h, __u32 bytes, __u8 field, __u32 need)
{
	h->skip = bytes;
	want(h, field, need);
}

/* Behind one extension: the next one, or the end. */
static __always_inline int next_extension(struct egd_hello *h, __u32 skip)
{
	skip_to(h, skip, F_EXT_TYPE, 2);
	return HELLO_MORE;
}

/* An absolute name (RFC 1034 section 3.1) is the same one without its last dot. */
static __always_inline void drop_root_dot(struct egd_name_key *k)
{
	__u32 last = k->len - 1;

	if (k->len < 2 || k->name[last & (EGD_MAX_NAME - 1)] != '.')
		return;
	k->name[last & (EGD_MAX_NAME - 1)] = 0;
	k->len = last;
}

/* A field of an extension is complete. Of server_name there is one, with one name. */
static __always_inline int extension_done(struct egd_hello *h, __u32 v)
{
	switch (h->field) {
	case F_EXT_TYPE:
		h->ext_type = v;
		if (v == 42) /* early_data */
			h->early = 1;
		want(h, F_EXT_LEN, 2);
		return HELLO_MORE;
	case F_EXT_LEN:
		if (v > h->left)
			return HELLO_MALFORMED;
		if (h->ext_type != 0)
			return next_extension(h, v);
		if (h->named || v < 6)
			return HELLO_MALFORMED;
		h->named = 1;
		h->list = v;
		want(h, F_LIST_LEN, 2);
		return HELLO_MORE;
	case F_LIST_LEN:
		if (v + 2 != h->list)
			return HELLO_MALFORMED;
		want(h, F_NAME_TYPE, 1);
		return HELLO_MORE;
	case F_NAME_TYPE:
		if (v != 0) /* host_name */
			return HELLO_MALFORMED;
		want(h, F_NAME_LEN, 2);
		return HELLO_MORE;
	case F_NAME_LEN:
		if (v + 5 != h->list || v < 1 || v > EGD_MAX_NAME)
			return HELLO_MALFORMED;
		want(h, F_NAME, v);
		return HELLO_MORE;
	case F_NAME:
		if (h->phase != EGD_SECOND)
			drop_root_dot(&h->key);
		return next_extension(h, 0);
	}
	return HELLO_MALFORMED;
}

/* A field is complete; its value is in acc. */
static __always_inline int field_done(struct egd_hello *h)
{
	__u32 v = h->acc;

	switch (h->field) {
	case F_HS_TYPE:
		/* Of the others TLS 1.2 goes on with certificate or
		 * client_key_exchange (RFC 5246 section 7.4). */
		if (v != 1) /* client_hello */
			return h->phase != EGD_FIRST && (h->ccs || v == 11 || v == 16) ?
				       HELLO_SETTLED :
				       HELLO_MALFORMED;
		if (h->phase == EGD_BETWEEN)
			h->phase = EGD_SECOND;
		want(h, F_HS_LEN, 3);
		return HELLO_MORE;
	case F_HS_LEN:
		if (h->ccs && v > MAX_ANY_HELLO)
			return HELLO_SETTLED;
		if (v < 34 + 1 + 2 + 2 || v > MAX_HELLO)
			return HELLO_MALFORMED;
		h->left = v;
		skip_to(h, 34, F_SESSION_LEN, 1);
		return HELLO_MORE;
	case F_SESSION_LEN:
		if (v > 32)
			return HELLO_MALFORMED;
		skip_to(h, v, F_SUITES_LEN, 2);
		return HELLO_MORE;
	case F_SUITES_LEN:
		if (v < 2 || v % 2)
			return HELLO_MALFORMED;
		skip_to(h, v, F_COMPRESSION_LEN, 1);
		return HELLO_MORE;
	case F_COMPRESSION_LEN:
		if (v < 1)
			return HELLO_MALFORMED;
		skip_to(h, v, F_EXTENSIONS_LEN, 2);
		return HELLO_MORE;
	case F_EXTENSIONS_LEN:
		if (v != h->left)
			return HELLO_MALFORMED;
		return next_extension(h, 0);
	}
	return extension_done(h, v);
}

/* One byte of the handshake stream. */
static __always_inline int hello_byte(struct egd_hello *h, __u8 b)
{
	if (h->field == F_NAME) {
		if (b >= 'A' && b <= 'Z')
			b += 'a' - 'A';
		/* A NUL or a blank in a name fools those who read it after us. */
		if (b <= ' ' || b >= 0x7f)
			return HELLO_MALFORMED;
		if (h->phase == EGD_SECOND) {
			if (b == '.' && h->need == 1 && h->again == h->key.len)
				h->again--; /* the dot of the root */
			else if (h->key.name[h->again & (EGD_MAX_NAME - 1)] != b)
				return HELLO_OTHER_NAME;
			h->again++;
		} else {
			h->key.name[h->key.len & (EGD_MAX_NAME - 1)] = b;
			h->key.len++;
		}
	} else {
		h->acc = h->acc << 8 | b;
	}
	if (h->field != F_HS_TYPE && h->field != F_HS_LEN) {
		if (!h->left)
			return HELLO_MALFORMED;
		h->left--;
	}
	if (--h->need)
		return HELLO_MORE;
	return field_done(h);
}

/* The type of a record behind a whole hello. */
static __always_inline int later_record(struct egd_hello *h, __u8 type)
{
	if (type == RECORD_HANDSHAKE)
		return HELLO_MORE;
	/* What began as a second hello was none, if it may have been encrypted. */
	if (type == RECORD_DATA && !h->early)
		return h->phase == EGD_BETWEEN || h->ccs ? HELLO_SETTLED : HELLO_MALFORMED;
	if (h->phase == EGD_SECOND && type != RECORD_DATA)
		return HELLO_MALFORMED;
	h->opaque = 1;
	if (type == RECORD_CCS)
		h->ccs = 1;
	return HELLO_MORE;
}

/* One byte of a record header: type, version, length. */
static __always_inline int record_byte(struct egd_hello *h, __u8 b)
{
	int r;

	switch (h->record_pos) {
	case 0:
		if (h->phase != EGD_FIRST) {
			r = later_record(h, b);
			if (r != HELLO_MORE)
				return r;
			break;
		}
		if (b != RECORD_HANDSHAKE)
			return h->started ? HELLO_MALFORMED : HELLO_NOT_TLS;
		break;
	case 1:
		if (b != 3)
			return h->started ? HELLO_MALFORMED : HELLO_NOT_TLS;
		break;
	case 3:
		h->record_len = b; /* not record yet: that says a record is open */
		break;
	case 4:
		h->record = (__u32)h->record_len << 8 | b;
		if (h->record > MAX_OPAQUE_RECORD ||
		    (h->phase == EGD_FIRST && h->record > MAX_RECORD) || (!h->record && !h->opaque))
			return HELLO_MALFORMED;
		if (!h->record)
			h->opaque = 0;
		h->started = 1;
		h->record_pos = 0;
		return HELLO_MORE;
	}
	h->record_pos++;
	return HELLO_MORE;
}

/* A byte of a record header or of the handshake. A function of its own, for the
 * verifier walks through the loop below with each way that it can end. */
__noinline int egd_hello_byte(struct egd_hello *h, __u8 b)
{
	if (!h)
		return HELLO_MALFORMED;
	if (!h->record)
		return record_byte(h, b);
	h->record--;
	return hello_byte(h, b);
}

struct hello_walk {
	struct __sk_buff *skb;
	struct egd_hello *h;
	__u32 off, end; /* of the payload in skb */
	int result;
};

/* Where to read in a packet. */
struct hello_span {
	__u32 off, end;
};

/* One step: a byte, or as much of a skip as the record and the segment have. */
static long hello_step(__u32 i, struct hello_walk *w)
{
	struct egd_hello *h = w->h;
	__u32 n, open;
	__u8 b;

	if (w->off >= w->end)
		return 1;
	if (h->record && h->opaque) {
		n = h->record;
		if (n > w->end - w->off)
			n = w->end - w->off;
		h->record -= n;
		w->off += n;
		if (!h->record)
			h->opaque = 0;
		return 0;
	}
	if (h->record && h->skip) {
		n = h->skip;
		if (n > h->record)
			n = h->record;
		if (n > w->end - w->off)
			n = w->end - w->off;
		if (n > h->left) {
			w->result = HELLO_MALFORMED;
			return 1;
		}
		h->skip -= n;
		h->record -= n;
		h->left -= n;
		w->off += n;
	} else {
		if (bpf_skb_load_bytes(w->skb, w->off, &b, 1)) {
			w->result = HELLO_MALFORMED;
			return 1;
		}
		w->off++;
		open = h->record;
		w->result = egd_hello_byte(h, b);
		if (!open || w->result != HELLO_MORE)
			return w->result != HELLO_MORE;
	}
	/* The end of the message, at the start of what would be an extension, or
	 * of the extensions' length, which may be missing. */
	if (h->field > F_HS_LEN && !h->left && !h->skip) {
		if ((h->field == F_EXT_TYPE || h->field == F_EXTENSIONS_LEN) && !h->acc &&
		    h->need == 2)
			w->result = HELLO_DONE;
		else
			w->result = HELLO_MALFORMED;
		return 1;
	}
	return 0;
}

/* Steps for one segment: each takes a byte or skips. Enough for the largest
 * segment, should somebody send a record for each byte. */
#define HELLO_STEPS (1 << 17)

/* Reads the payload of one segment, from w's off to end, up to the end of a hello;
 * off is where it stopped. What is in the record behind the hello is another
 * message. A function of its own, which the verifier reads once for all callers. */
__noinline int egd_read_hello(struct __sk_buff *skb, struct egd_hello *h, struct hello_span *s)
{
	struct hello_walk w = { .skb = skb, .h = h, .result = HELLO_MORE };
	long steps;

	if (!h || !s)
		return HELLO_MALFORMED;
	w.off = s->off;
	w.end = s->end;
	steps = bpf_loop(HELLO_STEPS, hello_step, &w, 0);
	s->off = w.off;
	if (steps < 0 || (steps == HELLO_STEPS && w.off < w.end))
		return HELLO_MALFORMED;
	if (w.result == HELLO_DONE && h->record)
		return HELLO_MALFORMED;
	return w.result;
}

static __always_inline int read_hello(struct __sk_buff *skb, struct egd_hello *h, __u32 *off,
				      __u32 end)
{
	struct hello_span s = { .off = *off, .end = end };
	int r = egd_read_hello(skb, h, &s);

	*off = s.off;
	return r;
}

/* The first hello is good: what comes now may be a second one. */
static __always_inline void expect_second(struct egd_hello *h)
{
	h->phase = EGD_BETWEEN;
	h->named = 0;
	h->record_pos = 0;
	want(h, F_HS_TYPE, 1);
}

/* How far a connection with early data is read: where it was accepted, nothing
 * tells when a second hello is past. Servers skip 16 KB (RFC 8446 section 4.2.10
 * leaves it to them). */
#define MAX_EARLY 65536

/* Reads what is behind a good hello, as read_hello does; at is how much was read
 * before. HELLO_MORE: not settled yet; HELLO_SETTLED: nothing behind *off counts. */
static __always_inline int read_second(struct __sk_buff *skb, struct egd_hello *h, __u32 at,
				       __u32 *off, __u32 end)
{
	int r = read_hello(skb, h, off, end);

	if (r == HELLO_MORE && h->early && at > MAX_EARLY)
		return HELLO_SETTLED;
	if (r != HELLO_DONE)
		return r;
	return h->named && h->again == h->key.len ? HELLO_SETTLED : HELLO_OTHER_NAME;
}

#endif
