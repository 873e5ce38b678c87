/* imfd inspect: what a checkpoint file is, for people or as JSON. */
#include "cli/commands.h"

#include "common/error.h"
#include "files/checkpoint.h"
#include "files/spellings.h"
#include "models/metadata.h"
#include "models/model_names.h"
#include "settings/model_options.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What was found out. Lists hold indices into the checkpoint or the list of names. */
struct report {
    struct imf__checkpoint *c;
    enum imf__model_kind kind;
    struct imf__names names;
    struct imf__meanflow_shape net;
    struct imf__vae_shape vae;
    char model[64];
    unsigned wrappers; /* in names: imf__spelling_wrappers_in */
    uint64_t parameters, type_count[IMF__STORED_OTHER + 1];
    size_t *missing, *mismatched, *extra;
    size_t missing_count, mismatched_count, extra_count, skipped_count;
    char shape_error[504]; /* why sizes could not be read off, or metadata is refused, or "" */
    bool sized;            /* sizes could be read off, so that there is a list to compare with */
    struct imf__meanflow_defaults defaults;
    int narrow;           /* of InceptionV3; 0 otherwise */
    char fingerprint[33]; /* with --values */
};

static const char *const type_names[] = {"float32", "float16", "bfloat16", "float64", "other"};

/* ---- Finding out ---- */

/* What serve and sample would take from the metadata, and what they would refuse. */
static imf_status read_metadata(struct report *r, struct imf_error *err)
{
    char **names = NULL;
    r->defaults = imf__meanflow_defaults(&r->net);
    IMF_TRY(imf__metadata_defaults(&r->defaults, r->c, err));
    IMF_TRY(imf__metadata_class_names(&names, r->net.classes, r->c, err));
    imf__class_names_free(names, r->net.classes);
    return IMF_OK;
}

/* Sizes and the list of names that belong to them; false when they cannot be read off. */
static bool find_names(struct report *r)
{
    struct imf_error err = {0};
    imf_status status = IMF_EMODEL;
    switch (r->kind) {
    case IMF__MODEL_MIT:
    case IMF__MODEL_PMF:
        status = imf__meanflow_shape_read(&r->net, r->c, &err);
        if (status == IMF_OK)
            status = imf__meanflow_names(&r->names, &r->net);
        r->sized = status == IMF_OK;
        if (status == IMF_OK)
            status = read_metadata(r, &err);
        break;
    case IMF__MODEL_SD_VAE:
        status = imf__vae_shape_read(&r->vae, r->c, &err);
        if (status == IMF_OK)
            status = imf__vae_names(&r->names, &r->vae);
        break;
    case IMF__MODEL_TAESD:
        status = imf__taesd_names(&r->names);
        break;
    case IMF__MODEL_INCEPTION:
        status = imf__inception_narrow(&r->narrow, r->c, &err);
        if (status == IMF_OK)
            status = imf__inception_names(&r->names, r->narrow);
        break;
    case IMF__MODEL_UNKNOWN:
        break;
    }
    memcpy(r->shape_error, err.message, sizeof(err.message));
    r->sized = r->sized || status == IMF_OK;
    return status == IMF_OK;
}

/* A MiT or pMF whose sizes are known. */
static bool is_meanflow(const struct report *r)
{
    return r->names.count && (r->kind == IMF__MODEL_MIT || r->kind == IMF__MODEL_PMF);
}

static void name_model(struct report *r)
{
    if (is_meanflow(r))
        imf__meanflow_title(r->model, &r->net);
    else if (r->narrow > 1)
        snprintf(r->model, sizeof(r->model), "%s, %d times fewer channels",
                 imf__model_kind_name(r->kind), r->narrow);
    else
        snprintf(r->model, sizeof(r->model), "%s", imf__model_kind_name(r->kind));
}

/* Where a tensor is in the checkpoint: they lie in one array. */
static size_t position(const struct imf__checkpoint *c, const struct imf__tensor *t)
{
    size_t low = 0, high = imf__checkpoint_count(c);
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (imf__checkpoint_at(c, middle) <= t)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Tensors that a complete file has and nothing here reads: they are no surprise. */
static bool is_known(enum imf__model_kind kind, const char *name)
{
    static const struct {
        enum imf__model_kind kind;
        const char *part;
    } known[] = {
        {IMF__MODEL_MIT, "v_heads."},
        {IMF__MODEL_MIT, "v_final_layer."},
        {IMF__MODEL_PMF, "v_heads."},
        {IMF__MODEL_PMF, "v_final_layer."},
        {IMF__MODEL_PMF, "rope_freqs"},
        {IMF__MODEL_SD_VAE, "encoder."},
        {IMF__MODEL_SD_VAE, "quant_conv."},
        {IMF__MODEL_TAESD, "encoder."},
        {IMF__MODEL_INCEPTION, "num_batches_tracked"},
        {IMF__MODEL_INCEPTION, "fc.bias"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (known[i].kind == kind && strstr(name, known[i].part))
            return true;
    }
    return false;
}

static bool compare(struct report *r)
{
    size_t count = imf__checkpoint_count(r->c);
    bool *used = calloc(count + 1, sizeof(*used));
    r->extra = calloc(count + 1, sizeof(*r->extra));
    r->missing = calloc(r->names.count + 1, sizeof(*r->missing));
    r->mismatched = calloc(r->names.count + 1, sizeof(*r->mismatched));
    bool ok = used && r->extra && r->missing && r->mismatched;
    for (size_t i = 0; ok && i < r->names.count; i++) {
        const struct imf__name *name = &r->names.items[i];
        const struct imf__tensor *t = imf__checkpoint_find(r->c, name->name), *same;
        if (t && name->needed)
            used[position(r->c, t)] = true;
        if (!t && name->needed)
            r->missing[r->missing_count++] = i;
        else if (t && name->needed && imf__model_require(&same, r->c, name, NULL) != IMF_OK)
            r->mismatched[r->mismatched_count++] = i;
    }
    for (size_t i = 0; ok && i < count; i++) {
        const struct imf__tensor *t = imf__checkpoint_at(r->c, i);
        r->type_count[t->type]++;
        r->wrappers |= imf__spelling_wrappers_in(t->name);
        r->parameters += t->type == IMF__STORED_OTHER ? 0 : t->count;
        if (used[i])
            continue;
        if (is_known(r->kind, t->spelling) || !imf__tensor_is_weight(t))
            r->skipped_count++;
        else if (r->names.count)
            r->extra[r->extra_count++] = i;
    }
    free(used);
    return ok;
}

/* Reads every value once: finds NaN, infinity and truncation, and makes the fingerprint. */
static imf_status read_values(struct report *r, struct imf_error *err)
{
    uint64_t largest = 0;
    for (size_t i = 0; i < imf__checkpoint_count(r->c); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(r->c, i);
        largest = t->type != IMF__STORED_OTHER && t->count > largest ? t->count : largest;
    }
    float *values = malloc((largest + 1) * sizeof(float));
    imf_status status = IMF_OK;
    if (!values) {
        snprintf(err->message, sizeof(err->message), "out of memory");
        return IMF_ENOMEM;
    }
    for (size_t i = 0; status == IMF_OK && i < imf__checkpoint_count(r->c); i++) {
        const struct imf__tensor *t = imf__checkpoint_at(r->c, i);
        if (t->type != IMF__STORED_OTHER)
            status = imf__checkpoint_read(r->c, t, values, err);
    }
    free(values);
    uint64_t print[2];
    imf__checkpoint_fingerprint(r->c, print);
    snprintf(r->fingerprint, sizeof(r->fingerprint), "%016llx%016llx", (unsigned long long)print[1],
             (unsigned long long)print[0]);
    return status;
}

/* Reads the values that the model is made of, which `sample` would: what it would refuse makes the
 * report one of a model that cannot be used. */
static bool read_needed(struct report *r)
{
    struct imf_error err = {0};
    imf_status status = IMF_OK;
    for (size_t i = 0; i < r->names.count && status == IMF_OK; i++) {
        const struct imf__tensor *t = imf__checkpoint_find(r->c, r->names.items[i].name);
        if (!t || !r->names.items[i].needed || t->type == IMF__STORED_OTHER)
            continue;
        float *values = malloc((t->count + 1) * sizeof(float));
        status = values ? imf__checkpoint_read(r->c, t, values, &err)
                        : imf__fail(&err, IMF_ENOMEM, "out of memory");
        free(values);
    }
    if (status != IMF_OK && !r->shape_error[0])
        snprintf(r->shape_error, sizeof(r->shape_error), "%s", err.message);
    return status == IMF_OK;
}

static void report_free(struct report *r)
{
    imf__names_free(&r->names);
    imf__checkpoint_close(r->c);
    free(r->missing);
    free(r->mismatched);
    free(r->extra);
}

/* ---- Telling ---- */

/* "float32", or "float32 and bfloat16". Integers count only when there is nothing else. */
static void describe_types(const struct report *r, char text[96])
{
    text[0] = '\0';
    for (int i = 0; i < IMF__STORED_OTHER; i++) {
        size_t n = strlen(text);
        if (r->type_count[i])
            snprintf(text + n, 96 - n, "%s%s", n ? " and " : "", type_names[i]);
    }
    if (!text[0])
        snprintf(text, 96, "%s", type_names[IMF__STORED_OTHER]);
}

/* Names and metadata come from the file: nothing that a terminal would act on. */
static void print_clean(const char *text, int limit)
{
    int n = 0;
    for (; *text && n < limit; text++, n++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7F ? '?' : *text);
    if (*text)
        printf("...");
}

static void print_shape(int ndim, const int64_t *shape)
{
    printf("[");
    for (int i = 0; i < ndim; i++)
        printf("%s%lld", i ? ", " : "", (long long)shape[i]);
    printf("]");
}

#define LIST_LIMIT 20

static void print_lists(const struct report *r)
{
    for (size_t i = 0; i < r->missing_count && i < LIST_LIMIT; i++) {
        const struct imf__name *name = &r->names.items[r->missing[i]];
        printf("  missing     %s ", name->name);
        print_shape(name->ndim, name->shape);
        printf("\n");
    }
    for (size_t i = 0; i < r->mismatched_count && i < LIST_LIMIT; i++) {
        const struct imf__name *name = &r->names.items[r->mismatched[i]];
        const struct imf__tensor *t = imf__checkpoint_find(r->c, name->name);
        printf("  wrong       %s: expected ", name->name);
        print_shape(name->ndim, name->shape);
        printf(", found ");
        print_shape(t->ndim, t->shape);
        printf(t->type == IMF__STORED_OTHER ? " of a type that no weight has\n" : "\n");
    }
    for (size_t i = 0; i < r->extra_count && i < LIST_LIMIT; i++) {
        const struct imf__tensor *t = imf__checkpoint_at(r->c, r->extra[i]);
        printf("  extra       ");
        print_clean(t->name, 100);
        printf(" ");
        print_shape(t->ndim, t->shape);
        printf("\n");
    }
    if (r->sized)
        printf("  tensors     %zu: %zu missing, %zu wrong, %zu extra, %zu not needed\n",
               imf__checkpoint_count(r->c), r->missing_count, r->mismatched_count, r->extra_count,
               r->skipped_count);
    else
        printf("  tensors     %zu, which make no model known here\n", imf__checkpoint_count(r->c));
}

static void print_sizes(const struct report *r)
{
    if (is_meanflow(r)) {
        const struct imf__meanflow_shape *n = &r->net;
        const struct imf__meanflow_defaults d = r->defaults;
        printf(
            "  sizes       depth %d (%d shared + %d u blocks), hidden %d, %d heads of %d, MLP %d\n",
            n->depth, n->shared_depth, n->depth - n->shared_depth, n->hidden,
            n->hidden / n->head_size, n->head_size, n->mlp_hidden);
        printf("  input       %d x %d x %d, patch %d, %d classes\n", n->channels, n->input_size,
               n->input_size, n->patch_size, n->classes);
        if (n->bottleneck)
            printf("  pixels      bottleneck %d, noise scale %g%s\n", n->bottleneck,
                   (double)d.noise_scale, n->post_trained ? ", post-trained" : "");
        printf("  defaults    steps %d, omega %g, t_min %g, t_max %g\n", d.sampling.steps,
               (double)d.sampling.omega, (double)d.sampling.t_min, (double)d.sampling.t_max);
    }
    if (r->kind == IMF__MODEL_SD_VAE && r->names.count) {
        printf("  sizes       %d latent channels, up-blocks of", r->vae.latent_channels);
        for (int i = 0; i < r->vae.blocks; i++)
            printf("%s %d", i ? "," : "", r->vae.channels[i]);
        printf(" channels\n");
    }
}

static void print_wrappers(const struct report *r)
{
    if (!r->wrappers)
        return;
    printf("  prefixes    ");
    for (int i = 0, n = 0; imf__spelling_wrapper(i); i++) {
        if (r->wrappers >> i & 1)
            printf("%s%s.", n++ ? ", " : "", imf__spelling_wrapper(i));
    }
    printf(" left out of the names\n");
}

/* Objects beside the weights, by their classes. */
static void print_skipped(const struct report *r)
{
    size_t n = imf__checkpoint_skipped_count(r->c);
    for (size_t i = 0; i < n; i++) {
        printf(i ? ", " : "  skipped     ");
        print_clean(imf__checkpoint_skipped_at(r->c, i), 100);
    }
    if (n)
        printf("\n");
}

static void print_text(const struct report *r)
{
    char types[96];
    describe_types(r, types);
    printf("%s: %s\n", imf__checkpoint_path(r->c), r->model);
    printf("  format      %s, %s%s%s%s\n", imf__checkpoint_format(r->c), types,
           imf__checkpoint_nesting(r->c)[0] ? ", under \"" : "", imf__checkpoint_nesting(r->c),
           imf__checkpoint_nesting(r->c)[0] ? "\"" : "");
    if (imf__checkpoint_others(r->c)[0])
        printf("  also there  %s (--checkpoint-key)\n", imf__checkpoint_others(r->c));
    printf("  size        %.1f MB, %llu parameters\n", (double)imf__checkpoint_bytes(r->c) / 1e6,
           (unsigned long long)r->parameters);
    print_sizes(r);
    if (r->shape_error[0])
        printf("  incomplete  %s\n", r->shape_error);
    for (size_t i = 0; i < imf__checkpoint_metadata_count(r->c) && i < LIST_LIMIT; i++) {
        const char *key, *value;
        imf__checkpoint_metadata_at(r->c, i, &key, &value);
        printf("  metadata    ");
        print_clean(key, 40);
        printf(" = ");
        print_clean(value, 60);
        printf("\n");
    }
    print_wrappers(r);
    print_skipped(r);
    print_lists(r);
    if (r->fingerprint[0])
        printf("  values      all finite, fingerprint %s\n", r->fingerprint);
}

static cJSON *json_shape(int ndim, const int64_t *shape)
{
    cJSON *a = cJSON_CreateArray();
    for (int i = 0; i < ndim; i++)
        cJSON_AddItemToArray(a, cJSON_CreateNumber((double)shape[i]));
    return a;
}

static void json_lists(cJSON *root, const struct report *r)
{
    cJSON *missing = cJSON_AddArrayToObject(root, "missing");
    for (size_t i = 0; i < r->missing_count; i++)
        cJSON_AddItemToArray(missing, cJSON_CreateString(r->names.items[r->missing[i]].name));
    cJSON *wrong = cJSON_AddArrayToObject(root, "mismatched");
    for (size_t i = 0; i < r->mismatched_count; i++) {
        const struct imf__name *name = &r->names.items[r->mismatched[i]];
        const struct imf__tensor *t = imf__checkpoint_find(r->c, name->name);
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", name->name);
        cJSON_AddItemToObject(item, "expected", json_shape(name->ndim, name->shape));
        cJSON_AddItemToObject(item, "found", json_shape(t->ndim, t->shape));
        cJSON_AddItemToArray(wrong, item);
    }
    cJSON *extra = cJSON_AddArrayToObject(root, "extra");
    for (size_t i = 0; i < r->extra_count; i++)
        cJSON_AddItemToArray(extra,
                             cJSON_CreateString(imf__checkpoint_at(r->c, r->extra[i])->name));
    cJSON_AddNumberToObject(root, "not_needed", (double)r->skipped_count);
}

static void json_meanflow(cJSON *root, const struct report *r)
{
    const struct imf__meanflow_shape *m = &r->net;
    const struct {
        const char *key;
        int value;
    } sizes[] = {{"depth", m->depth},           {"shared_depth", m->shared_depth},
                 {"hidden", m->hidden},         {"heads", m->hidden / m->head_size},
                 {"head_size", m->head_size},   {"mlp_hidden", m->mlp_hidden},
                 {"classes", m->classes},       {"channels", m->channels},
                 {"patch_size", m->patch_size}, {"input_size", m->input_size},
                 {"bottleneck", m->bottleneck}};
    cJSON *object = cJSON_AddObjectToObject(root, "sizes");
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        cJSON_AddNumberToObject(object, sizes[i].key, sizes[i].value);
    struct imf__meanflow_defaults d = r->defaults;
    struct imf_sampling s = d.sampling;
    object = cJSON_AddObjectToObject(root, "defaults");
    cJSON_AddNumberToObject(object, "steps", s.steps);
    /* As written in the release: 0.65, not 0.64999998. */
    const struct {
        const char *key;
        float value;
    } guidance[] = {
        {"omega", s.omega}, {"t_min", s.t_min}, {"t_max", s.t_max}, {"noise_scale", d.noise_scale}};
    for (int i = 0; i < 4; i++) {
        char text[32];
        snprintf(text, sizeof(text), "%.6g", (double)guidance[i].value);
        cJSON_AddRawToObject(object, guidance[i].key, text);
    }
}

static int print_json(const struct report *r)
{
    char types[96];
    describe_types(r, types);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "file", imf__checkpoint_path(r->c));
    cJSON_AddStringToObject(root, "format", imf__checkpoint_format(r->c));
    cJSON_AddStringToObject(root, "nesting", imf__checkpoint_nesting(r->c));
    cJSON_AddStringToObject(root, "others", imf__checkpoint_others(r->c));
    cJSON_AddStringToObject(root, "kind", imf__model_kind_name(r->kind));
    cJSON_AddStringToObject(root, "model", r->model);
    cJSON_AddNumberToObject(root, "bytes", (double)imf__checkpoint_bytes(r->c));
    cJSON_AddStringToObject(root, "dtype", types);
    cJSON_AddNumberToObject(root, "tensors", (double)imf__checkpoint_count(r->c));
    cJSON_AddNumberToObject(root, "parameters", (double)r->parameters);
    if (is_meanflow(r))
        json_meanflow(root, r);
    if (r->kind == IMF__MODEL_SD_VAE && r->names.count) {
        cJSON *sizes = cJSON_AddObjectToObject(root, "sizes");
        cJSON_AddNumberToObject(sizes, "latent_channels", r->vae.latent_channels);
        cJSON_AddItemToObject(sizes, "up_channels",
                              cJSON_CreateIntArray(r->vae.channels, r->vae.blocks));
    }
    cJSON *metadata = cJSON_AddObjectToObject(root, "metadata");
    for (size_t i = 0; i < imf__checkpoint_metadata_count(r->c); i++) {
        const char *key, *value;
        imf__checkpoint_metadata_at(r->c, i, &key, &value);
        cJSON_AddStringToObject(metadata, key, value);
    }
    if (r->shape_error[0])
        cJSON_AddStringToObject(root, "incomplete", r->shape_error);
    cJSON *prefixes = cJSON_AddArrayToObject(root, "prefixes");
    for (int i = 0; imf__spelling_wrapper(i); i++) {
        if (r->wrappers >> i & 1)
            cJSON_AddItemToArray(prefixes, cJSON_CreateString(imf__spelling_wrapper(i)));
    }
    cJSON *skipped = cJSON_AddArrayToObject(root, "skipped_objects");
    for (size_t i = 0; i < imf__checkpoint_skipped_count(r->c); i++)
        cJSON_AddItemToArray(skipped, cJSON_CreateString(imf__checkpoint_skipped_at(r->c, i)));
    json_lists(root, r);
    if (r->fingerprint[0])
        cJSON_AddStringToObject(root, "fingerprint", r->fingerprint);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return IMFD_EXIT_FAILURE;
    puts(text);
    free(text);
    return IMFD_EXIT_OK;
}

/* ---- Command ---- */

static int inspect(struct report *r, const char *path, const char *key, bool json, bool values)
{
    struct imf_error err = {0};
    imf_status status = imf__checkpoint_open(&r->c, path, key, &err);
    if (status == IMF_OK && values)
        status = read_values(r, &err);
    if (status != IMF_OK) {
        fprintf(stderr, "imfd inspect: %s\n", err.message);
        return IMFD_EXIT_FAILURE;
    }
    r->kind = imf__model_kind_of(r->c);
    bool good = find_names(r);
    name_model(r);
    good = (values || read_needed(r)) && good;
    if (!compare(r)) {
        fprintf(stderr, "imfd inspect: %s: out of memory\n", path);
        return IMFD_EXIT_FAILURE;
    }
    if (!json)
        print_text(r);
    else if (print_json(r) != IMFD_EXIT_OK)
        return IMFD_EXIT_FAILURE;
    bool complete =
        good && r->missing_count == 0 && r->mismatched_count == 0 && r->extra_count == 0;
    return complete && fflush(stdout) == 0 ? IMFD_EXIT_OK : IMFD_EXIT_FAILURE;
}

struct inspect_options {
    const char *key;
    bool json, values;
};
#define AT(member) offsetof(struct inspect_options, member)

int imfd_cmd_inspect(int argc, char **argv)
{
    struct inspect_options o = {0};
    static const struct imfd_option options[] = {
        IMFD_OPTION(FLAG, "json", AT(json), .help = "print JSON"),
        OPTION_CHECKPOINT_KEY(AT(key)),
        IMFD_OPTION(
            FLAG, "values", AT(values),
            .help = "read all values, not only those that the model needs; print a fingerprint"),
        {.name = NULL},
    };
    const struct imfd_usage usage = {
        .command = "inspect",
        .operand = "FILE",
        .summary = "Tells what a checkpoint is: .pth or .bin of torch.save, .safetensors, a shard "
                   "index, or a folder with weights. Nothing in it is executed.",
        .notes = "exit status: 0 a model that can be used, 1 one that cannot (unreadable, "
                 "incomplete, of no known kind), 2 wrong usage",
        .options = options,
    };
    const char *path = NULL;
    switch (imfd_options_parse(&usage, &o, argc, argv, &path)) {
    case IMFD_PARSED_HELP:
        return IMFD_EXIT_OK;
    case IMFD_PARSED_ERROR:
        return IMFD_EXIT_USAGE;
    case IMFD_PARSED_RUN:
        break;
    }
    if (!path)
        return imfd_usage_error(&usage, "name a file");
    struct report r = {0};
    int status = inspect(&r, path, o.key, o.json, o.values);
    report_free(&r);
    return status;
}
