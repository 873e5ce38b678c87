/* Tenants: who shares the engine fairly with whom, and what each has received. */
#include "scheduler/state.h"

#include <stdlib.h>
#include <string.h>

/* Least service among those that compete; what a newcomer is credited with, so that it neither
 * waits for old debts of others nor gets arrears for the time it was away. */
static uint64_t least_tenant(const struct sched_core *c)
{
    uint64_t least = UINT64_MAX;
    LIST_EACH(it, &c->tenants)
    {
        const struct tenant *t = LIST_OF(it, struct tenant, active);
        if (t->service < least)
            least = t->service;
    }
    return least == UINT64_MAX ? 0 : least;
}

static uint64_t least_request(const struct tenant *t)
{
    uint64_t least = UINT64_MAX;
    LIST_EACH(it, &t->requests)
    {
        const struct sched_request *r = LIST_OF(it, struct sched_request, of_tenant);
        if (r->service < least)
            least = r->service;
    }
    return least == UINT64_MAX ? 0 : least;
}

/* Tenants without requests are remembered for as long as they are ahead of the others: forgetting
 * them earlier would let a client reset its account by pausing. */
static void forget_tenants(struct sched_core *c)
{
    bool all = list_empty(&c->tenants);
    uint64_t least = least_tenant(c);
    struct tenant *t, *next;
    HASH_ITER(hh, c->tenant_table, t, next)
    {
        if (list_empty(&t->requests) && (all || t->service <= least)) {
            HASH_DEL(c->tenant_table, t);
            free(t);
        }
    }
}

struct tenant *core__tenant_get(struct sched_core *c, const char *id)
{
    struct tenant *t;
    HASH_FIND_STR(c->tenant_table, id, t);
    if (t)
        return t;
    if (HASH_COUNT(c->tenant_table) >= 64)
        forget_tenants(c);
    size_t size = strlen(id) + 1;
    t = calloc(1, sizeof(*t) + size);
    if (!t)
        return NULL;
    memcpy(t->id, id, size);
    list_init(&t->active);
    list_init(&t->requests);
    HASH_ADD_STR(c->tenant_table, id, t);
    if (!HASH_ADDED(t)) {
        free(t);
        return NULL;
    }
    return t;
}

void core__tenant_join(struct sched_core *c, struct tenant *t, struct sched_request *r)
{
    if (list_empty(&t->requests)) {
        uint64_t least = least_tenant(c);
        if (t->service < least)
            t->service = least;
        list_append(&c->tenants, &t->active);
    }
    r->tenant = t;
    r->service = least_request(t);
    list_append(&t->requests, &r->of_tenant);
}

void core__tenant_leave(struct sched_request *r)
{
    list_remove(&r->of_tenant);
    if (list_empty(&r->tenant->requests))
        list_remove(&r->tenant->active);
}

void core__tenants_free(struct sched_core *c)
{
    struct tenant *t, *next;
    HASH_ITER(hh, c->tenant_table, t, next)
    {
        HASH_DEL(c->tenant_table, t);
        free(t);
    }
}
