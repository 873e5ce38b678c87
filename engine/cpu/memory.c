/* Memory of the CPU device, on huge pages: with small ones a product's operands meet in the
 * second-level cache long before it is full. */
#include "cpu/internal.h"
#include "common/memory_room.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

size_t cpu_memory_limit(void)
{
    const size_t room = imf__memory_room_limits().bytes;
    if (room == SIZE_MAX)
        return room;
    return room > CPU_LIBRARIES_BYTES ? room - CPU_LIBRARIES_BYTES : 0;
}

/* On whole pages, not zeroed: memory that is not touched is not there. */
static void *pages(size_t bytes)
{
    const size_t page = bytes >= HUGE_PAGE ? HUGE_PAGE : 4096;
    const size_t size = cpu_round_up(bytes ? bytes : 1, 4096);
    void *p = NULL;
    if (size < bytes || bytes > cpu_memory_limit() || posix_memalign(&p, page, size) != 0)
        return NULL;
    if (page == HUGE_PAGE)
        madvise(p, size, MADV_HUGEPAGE); /* a hint */
    return p;
}

void *cpu_memory_alloc(size_t bytes)
{
    void *p = pages(bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

/* ---- Weights ---- */

#define BLOCK ((size_t)64 << 20)

/* Matrices one behind the other. A block goes when its last one does. */
struct block {
    struct block *next;
    char *p;
    size_t used;
    int matrices;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks; /* the newest first */

static bool add_block(void)
{
    struct block *b = calloc(1, sizeof(*b));
    if (!b || !(b->p = pages(BLOCK))) {
        free(b);
        return false;
    }
    b->next = blocks;
    blocks = b;
    return true;
}

static void *cut(size_t bytes)
{
    if ((!blocks || BLOCK - blocks->used < bytes) && !add_block())
        return NULL;
    void *p = blocks->p + blocks->used;
    blocks->used += bytes;
    blocks->matrices++;
    return p;
}

void *cpu_weights_alloc(size_t bytes)
{
    const size_t size = cpu_round_up(bytes ? bytes : 1, 4096);
    void *p = NULL;
    if (size >= bytes && size <= BLOCK / 2) {
        pthread_mutex_lock(&lock);
        p = cut(size);
        pthread_mutex_unlock(&lock);
    }
    return p ? memset(p, 0, bytes) : cpu_memory_alloc(bytes);
}

void cpu_weights_free(void *p)
{
    struct block **at = &blocks, *b;
    pthread_mutex_lock(&lock);
    while ((b = *at) && !((char *)p >= b->p && (char *)p < b->p + BLOCK))
        at = &b->next;
    if (b && --b->matrices == 0) {
        *at = b->next;
        p = b->p;
        free(b);
    } else if (b) {
        p = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(p);
}
