/* LD_PRELOAD: the n-th allocation fails, or all from the n-th on. Only what the program itself and the
 * libraries of its server allocate counts: one's own handling of NULL is tried, not libc's or oneDNN's.
 * The test and the process share a page, the file that FAIL_NTH names; see test_memory.py. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {
    _Atomic int64_t nth;    /* counts down; 0: off */
    _Atomic int64_t on;     /* 1: all from the n-th on */
    _Atomic int64_t failed; /* so many have */
    char where[104];        /* of the first: module and offset */
};

static const char *const modules[] = {"imfd", "libmicrohttpd.", "libuv.", "libcjson.",
                                      "libdeflate."};
enum { MODULES = sizeof(modules) / sizeof(modules[0]) };

static struct {
    uintptr_t from, to, base;
} text[MODULES];
static struct control *control;
static _Atomic int ready;

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);

static int find_text(struct dl_phdr_info *info, size_t size, void *user)
{
    (void)size;
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash ? slash + 1 : info->dlpi_name;
    int *first = user; /* the program comes first, without a name */
    for (int m = 0; m < MODULES; m++) {
        bool is = m == 0 ? *first : strncmp(name, modules[m], strlen(modules[m])) == 0;
        for (int i = 0; is && i < info->dlpi_phnum; i++) {
            const ElfW(Phdr) *p = &info->dlpi_phdr[i];
            if (p->p_type == PT_LOAD && (p->p_flags & PF_X) != 0) {
                text[m].base = info->dlpi_addr;
                text[m].from = info->dlpi_addr + p->p_vaddr;
                text[m].to = text[m].from + p->p_memsz;
            }
        }
    }
    *first = 0;
    return 0;
}

static void find_real(void)
{
    real_malloc = dlsym(RTLD_NEXT, "malloc");
    real_realloc = dlsym(RTLD_NEXT, "realloc");
    real_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    real_calloc = dlsym(RTLD_NEXT, "calloc");
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FAIL_NTH");
    int first = 1, fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    control = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    dl_iterate_phdr(find_text, &first);
    ready = control != MAP_FAILED;
}

/* Whether the allocation asked for by this code fails. */
static bool fails(const void *caller)
{
    if (!ready || control->nth <= 0)
        return false;
    for (int m = 0; m < MODULES; m++) {
        uintptr_t at = (uintptr_t)caller;
        if (at < text[m].from || at >= text[m].to)
            continue;
        /* The test may switch it off at any moment, and then it is off. */
        int64_t left = control->nth;
        do {
            if (left <= 0)
                return false;
        } while (
            !atomic_compare_exchange_weak(&control->nth, &left, left > 1 ? left - 1 : control->on));
        if (left > 1)
            return false;
        if (atomic_fetch_add(&control->failed, 1) == 0)
            snprintf(control->where, sizeof(control->where), "%s+0x%lx", modules[m],
                     (unsigned long)(at - text[m].base));
        errno = ENOMEM;
        return true;
    }
    return false;
}

void *malloc(size_t n)
{
    if (!real_malloc)
        find_real();
    return fails(__builtin_return_address(0)) ? NULL : real_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    if (!real_calloc)
        find_real();
    return fails(__builtin_return_address(0)) ? NULL : real_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    if (!real_realloc)
        find_real();
    return n > 0 && fails(__builtin_return_address(0)) ? NULL : real_realloc(p, n);
}

int posix_memalign(void **out, size_t alignment, size_t n)
{
    if (!real_posix_memalign)
        find_real();
    return fails(__builtin_return_address(0)) ? ENOMEM : real_posix_memalign(out, alignment, n);
}
