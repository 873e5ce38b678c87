/* Trusted proxies: whose X-Forwarded-* headers are believed, and who the client behind them is. */
#ifndef PROXY_H
#define PROXY_H

#include "imf.h"

struct proxy_trust;

enum { PROXY_ADDRESS_SIZE = 64 };

/* Items are addresses, networks ("10.0.0.0/8", "fd00::/8") or "unix". */
IMF_MUST_CHECK imf_status proxy_trust_create(struct proxy_trust **out, char *const *items, int n,
                                             struct imf_error *err);
void proxy_trust_destroy(struct proxy_trust *t); /* NULL is fine */
/* `peer` is an address in text or "unix". */
bool proxy_trusted(const struct proxy_trust *t, const char *peer);
/* The client's address: from the right of X-Forwarded-For, the first that is no trusted proxy. It
 * is written in the one usual way, an IPv4 address in IPv6 form as IPv4. An entry that is no
 * address ends the search at the last one believed. Returns peer itself when it is not trusted. */
void proxy_client(const struct proxy_trust *t, const char *peer, const char *forwarded_for,
                  char out[PROXY_ADDRESS_SIZE]);

/* What a client is counted under: its address, or the /64 of an IPv6 one, of which a subscriber has
 * all addresses. */
void proxy_group(const char *client, char out[PROXY_ADDRESS_SIZE]);

#endif
