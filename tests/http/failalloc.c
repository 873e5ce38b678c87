/* Preloaded into a server under test: fails the n-th allocation that the program or a library of its
 * own choosing asks for (libmicrohttpd, libuv, cJSON, libdeflate), counted from when a test says so
 * through a file both map. SQLite's way of finding the places nobody thought of. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The C library's own; ours below take the usual names. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

struct control {
    _Atomic int64_t countdown; /* the allocation that makes it 0 fails; below: none does */
    _Atomic int64_t failed;
    _Atomic uint64_t where; /* offset of the failed call in its module */
    char module[64];
};

static struct control *control;
static struct {
    uintptr_t low, high, base;
    const char *name;
} modules[16];
static int n_modules;

static int add_module(struct dl_phdr_info *info, size_t size, void *user)
{
    static const char *const names[] = {"libmicrohttpd", "libuv", "libcjson", "libdeflate"};
    (void)size;
    (void)user;
    bool wanted = info->dlpi_name[0] == '\0'; /* the program */
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        wanted |= strstr(info->dlpi_name, names[i]) != NULL;
    for (int i = 0; wanted && i < info->dlpi_phnum && n_modules < 16; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || (p->p_flags & PF_X) == 0)
            continue;
        modules[n_modules].base = info->dlpi_addr;
        modules[n_modules].low = info->dlpi_addr + p->p_vaddr;
        modules[n_modules].high = modules[n_modules].low + p->p_memsz;
        modules[n_modules++].name = info->dlpi_name;
    }
    return 0;
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FAIL_CONTROL");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    dl_iterate_phdr(add_module, NULL);
    void *map = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

static bool fails(const void *caller)
{
    if (control == NULL || control->countdown <= 0)
        return false;
    uintptr_t at = (uintptr_t)caller;
    for (int i = 0; i < n_modules; i++) {
        if (at < modules[i].low || at >= modules[i].high)
            continue;
        if (--control->countdown != 0)
            return false;
        control->failed++;
        control->where = at - modules[i].base;
        strncpy(control->module, modules[i].name, sizeof(control->module) - 1);
        errno = ENOMEM;
        return true;
    }
    return false;
}

void *malloc(size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return size > 0 && fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *p = fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
    if (p == NULL)
        return ENOMEM;
    *out = p;
    return 0;
}
