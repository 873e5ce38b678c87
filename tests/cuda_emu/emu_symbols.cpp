/* The full name of a kernel from its address, template arguments included: IMF_LAUNCH only knows
 * the words written at the launch ("rms_norm<T, 8>"). Static functions are missing from the dynamic
 * symbol table, so the file's own table is read. */
#include "emu_internal.h"
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <map>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The mangled name of the function at `value` (or `value - base`) of the mapped file; "" when none.
 */
static std::string find_symbol(const char *file, size_t size, uintptr_t address, uintptr_t base)
{
    Elf64_Ehdr head;
    if (size < sizeof head)
        return "";
    memcpy(&head, file, sizeof head);
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64 ||
        head.e_shentsize != sizeof(Elf64_Shdr) || head.e_shoff > size ||
        size_t(head.e_shnum) * sizeof(Elf64_Shdr) > size - head.e_shoff)
        return "";
    uintptr_t want = head.e_type == ET_EXEC ? address : address - base;
    const Elf64_Shdr *sections = reinterpret_cast<const Elf64_Shdr *>(file + head.e_shoff);
    for (int i = 0; i < head.e_shnum; i++) {
        const Elf64_Shdr *t = &sections[i];
        if (t->sh_type != SHT_SYMTAB || t->sh_link >= head.e_shnum || t->sh_offset > size ||
            t->sh_size > size - t->sh_offset)
            continue;
        const Elf64_Shdr *names = &sections[t->sh_link];
        const Elf64_Sym *symbols = reinterpret_cast<const Elf64_Sym *>(file + t->sh_offset);
        for (size_t s = 0; s < t->sh_size / sizeof *symbols; s++)
            if (ELF64_ST_TYPE(symbols[s].st_info) == STT_FUNC && symbols[s].st_value == want &&
                names->sh_offset + symbols[s].st_name < size)
                return file + names->sh_offset + symbols[s].st_name;
    }
    return "";
}

static std::string demangle(const std::string &mangled)
{
    int status = 0;
    char *plain = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
    std::string s = plain && !status ? plain : mangled;
    free(plain);
    /* "void k<8>(float*, int) [clone ...]": drop what surrounds the name; '(' inside <> is an
     * argument. */
    int depth = 0;
    for (size_t i = 0; i < s.size(); i++) {
        depth += s[i] == '<';
        depth -= s[i] == '>' && (i == 0 || s[i - 1] != '-');
        if (s[i] == '(' && depth == 0 && i > 0 && s.compare(i, 11, "(anonymous ") != 0) {
            s.resize(i);
            break;
        }
    }
    if (s.rfind("void ", 0) == 0)
        s = s.substr(5);
    for (const char *noise : {"(anonymous namespace)::", "__nv_"})
        for (size_t at; (at = s.find(noise)) != std::string::npos;)
            s.erase(at, strlen(noise));
    for (const char *cast : {"(int)", "(bool)", "(unsigned int)"})
        for (size_t at; (at = s.find(cast)) != std::string::npos;)
            s.erase(at, strlen(cast));
    return s;
}

const char *emu_kernel_name(const void *function, const char *fallback)
{
    static std::map<const void *, std::string> cache;
    auto found = cache.find(function);
    if (found != cache.end())
        return found->second.c_str();
    std::string name;
    Dl_info info;
    if (dladdr(function, &info) && info.dli_fname) {
        int fd = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd >= 0 && !fstat(fd, &st) && st.st_size > 0) {
            size_t size = size_t(st.st_size);
            void *file = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
            if (file != MAP_FAILED) {
                name = find_symbol(static_cast<const char *>(file), size,
                                   reinterpret_cast<uintptr_t>(function),
                                   reinterpret_cast<uintptr_t>(info.dli_fbase));
                munmap(file, size);
            }
        }
        if (fd >= 0)
            close(fd);
    }
    name = name.empty() ? std::string(fallback) : demangle(name);
    return (cache[function] = name).c_str();
}
