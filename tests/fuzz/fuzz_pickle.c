/* The pickle machine alone, and the search for the state dict with a storage behind every key. */
#include "fuzz.h"

#include "files/torch_state.h"

static imf_status find(void *user, const struct imf__pickle_storage *storage,
                       struct imf__region *out, struct imf_error *err)
{
    const struct imf__checkpoint *c = user;
    if (storage->key[0] == '9')
        return imf__fail(err, IMF_EFORMAT, "is missing");
    *out = (struct imf__region){.bytes = c->files[0].size};
    return IMF_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imf__file file;
    struct imf_error err = {0};
    if (imf__file_open(&file, fuzz_file(data, size), &err) != IMF_OK)
        abort();
    struct imf__checkpoint c = {.path = file.label, .files = &file, .file_count = 1};
    struct imf__arena arena = {.limit = 16 << 20};
    struct imf__reader reader;
    struct imf__pickle p = {0};
    imf__reader_init(&reader, &file, 0, size);
    imf_status status = imf__pickle_run(&p, &arena, &reader, &err);
    if (status == IMF_OK) {
        const struct imf__storage_source source = {find, &c, 0};
        status = imf__torch_state_add(&c, &p, &source, &err);
    }
    if (status != IMF_OK && (err.status != status || !err.message[0]))
        abort();
    imf__arena_free(&arena);
    imf__arena_free(&c.arena);
    free(c.entries);
    free(c.skipped);
    imf__file_close(&file);
    return 0;
}
