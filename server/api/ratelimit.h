/* Two limits per client (an API key's name or an address): pictures a minute, and requests at a
 * time. The first has a fixed size, whatever number of clients shows up; the second holds those
 * with requests in hand. Loop thread only. */
#ifndef RATELIMIT_H
#define RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>

/* ---- Pictures a minute: a bucket that refills evenly and holds one minute's worth ------------ */

struct rate_limit;

struct rate_limit *rate_limit_create(int64_t per_minute); /* NULL when out of memory */
void rate_limit_destroy(struct rate_limit *r);            /* NULL is fine */
/* Takes `cost` pictures from the client's bucket. False when it holds fewer (a cost above a
 * minute's worth asks for a full bucket); then *retry_ms says when it will do. */
bool rate_limit_take(struct rate_limit *r, const char *client, uint32_t cost, uint64_t now_ms,
                     uint64_t *retry_ms);
/* Gives back what was taken for work that was then refused. */
void rate_limit_return(struct rate_limit *r, const char *client, uint32_t cost, uint64_t now_ms);

/* ---- Requests at a time ---------------------------------------------------------------------- */

/* A hash table of the clients that have any; NULL is the empty one. */
struct client_count;

enum client_counted { CLIENT_COUNTED, CLIENT_AT_LIMIT, CLIENT_NO_MEMORY };

/* CLIENT_AT_LIMIT when the client has `limit` (at least 1) already. */
enum client_counted client_counts_add(struct client_count **counts, const char *client,
                                      uint32_t limit);
void client_counts_remove(struct client_count **counts, const char *client);

#endif
