/* imfd synth: writes synthetic weights of a model, decoder or InceptionV3. */
#include "cli/commands.h"

#include "base/options.h"
#include "base/progress.h"
#include "models/model_names.h"
#include "models/synth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct job {
    const char *model, *output, *config, *dtype;
    uint64_t seed;
    bool quiet;
    /* What --config says; -1 where it does not. */
    long depth, shared, hidden, mlp, classes, channels, patch, input_size, groups, narrow, head,
        bottleneck;
    bool writes_input_size; /* into the metadata: it is not in the tensors */
    long blocks[IMF__VAE_MAX_BLOCKS];
    int block_count;
    struct imfd_usage usage;
};

/* ---- --config ---- */

/* A natural number up to 10^7, ending where `end` says; -1 when it is none. */
static long natural(const char *text, const char **end)
{
    char *stop;
    errno = 0;
    long n = *text >= '0' && *text <= '9' ? strtol(text, &stop, 10) : -1;
    if (n < 0 || errno || n > 10000000)
        return -1;
    *end = stop;
    return n;
}

/* "32:32:64:64" */
static bool parse_blocks(struct job *job, const char *text)
{
    const char *end = text;
    for (job->block_count = 0; job->block_count < IMF__VAE_MAX_BLOCKS; text = end + 1) {
        long n = natural(text, &end);
        if (n < 1 || n > 16384 || (*end != ':' && *end != '\0'))
            return false;
        job->blocks[job->block_count++] = n;
        if (*end == '\0')
            return true;
    }
    return false;
}

/* One "key=value"; 0, or an exit status. */
static int parse_pair(struct job *job, const char *pair)
{
    const struct {
        const char *key;
        long *value;
    } keys[] = {
        {"depth", &job->depth},           {"shared", &job->shared},
        {"hidden", &job->hidden},         {"mlp", &job->mlp},
        {"classes", &job->classes},       {"patch", &job->patch},
        {"input_size", &job->input_size}, {"groups", &job->groups},
        {"narrow", &job->narrow},         {"head", &job->head},
        {"bottleneck", &job->bottleneck},
    };
    const char *equals = strchr(pair, '='), *end = "";
    if (!equals)
        return imfd_usage_error(&job->usage, "--config: \"%s\" is not KEY=NUMBER", pair);
    size_t n = (size_t)(equals - pair);
    if (n == 8 && strncmp(pair, "channels", n) == 0) {
        if (!parse_blocks(job, equals + 1))
            return imfd_usage_error(&job->usage, "--config: \"%s\" is no list like 32:32:64:64",
                                    pair);
        job->channels = job->blocks[0];
        return 0;
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strlen(keys[i].key) == n && strncmp(keys[i].key, pair, n) == 0) {
            *keys[i].value = natural(equals + 1, &end);
            if (*keys[i].value < 0 || *end)
                return imfd_usage_error(&job->usage, "--config: \"%s\" is no number", pair);
            return 0;
        }
    }
    return imfd_usage_error(&job->usage, "--config: unknown key \"%.*s\"", (int)n, pair);
}

static int parse_config(struct job *job)
{
    long *const all[] = {&job->depth,   &job->shared,   &job->hidden, &job->mlp,
                         &job->classes, &job->channels, &job->patch,  &job->input_size,
                         &job->groups,  &job->narrow,   &job->head,   &job->bottleneck};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        *all[i] = -1;
    char *copy = strdup(job->config ? job->config : ""), *rest = copy;
    if (!copy)
        return IMFD_EXIT_FAILURE;
    int status = 0;
    for (char *pair; status == 0 && (pair = strsep(&rest, ","));) {
        if (*pair)
            status = parse_pair(job, pair);
    }
    free(copy);
    return status;
}

static int given(long value, int otherwise)
{
    return value < 0 ? otherwise : (int)value;
}

/* ---- Lists ---- */

/* A family's name for a size made up by --config; what it leaves out is B's. */
static bool made_up(struct imf__meanflow_shape *s, const char *name)
{
    return (strcmp(name, "MiT") == 0 && imf__meanflow_named(s, "MiT_B_2")) ||
           (strcmp(name, "pmfDiT") == 0 && imf__meanflow_named(s, "pmfDiT_B_16"));
}

static int meanflow_names(struct job *job, struct imf__names *names)
{
    struct imf__meanflow_shape s;
    bool named = imf__meanflow_named(&s, job->model);
    if (!named && !made_up(&s, job->model))
        return imfd_usage_error(&job->usage,
                                "unknown model \"%s\": MiT_B_2, MiT_M_2, MiT_L_2, MiT_XL_2, MiT, "
                                "pmfDiT_{B,L,H}_{16,32}, pmfDiT, sd-vae, taesd or inception",
                                job->model);
    if (!named && !job->config)
        return imfd_usage_error(&job->usage, "%s needs --config depth=..,hidden=..,classes=..",
                                job->model);
    if (job->groups >= 0 || job->block_count > 1)
        return imfd_usage_error(&job->usage, "--config: groups and lists of channels are sd-vae's");
    if (s.family == IMF__MIT && job->bottleneck >= 0)
        return imfd_usage_error(&job->usage, "--config: MiT has no bottleneck");
    if (job->depth >= 0) {
        /* Published models have 8 u blocks; small ones are cut in half. */
        s.depth = (int)job->depth;
        s.shared_depth = s.depth > 8 ? s.depth - 8 : s.depth / 2;
    }
    if (job->hidden >= 0) {
        s.hidden = (int)job->hidden;
        s.mlp_hidden = imf__meanflow_mlp_hidden(s.family, s.hidden);
    }
    s.shared_depth = given(job->shared, s.shared_depth);
    s.mlp_hidden = given(job->mlp, s.mlp_hidden);
    s.head_size = given(job->head, s.head_size);
    s.classes = given(job->classes, s.classes);
    s.channels = given(job->channels, s.channels);
    s.patch_size = given(job->patch, s.patch_size);
    s.input_size = given(job->input_size, s.input_size);
    s.bottleneck = given(job->bottleneck, s.bottleneck);
    job->writes_input_size = s.family == IMF__MIT && job->input_size >= 0;
    struct imf_error err = {0};
    if (imf__meanflow_shape_check(&s, &err) != IMF_OK)
        return imfd_usage_error(&job->usage, "--config: %s", err.message);
    return imf__meanflow_names(names, &s) == IMF_OK ? 0 : IMFD_EXIT_FAILURE;
}

static int vae_names(struct job *job, struct imf__names *names)
{
    struct imf__vae_shape s;
    imf__vae_shape_init(&s);
    if (job->block_count) {
        s.blocks = job->block_count;
        for (int i = 0; i < s.blocks; i++)
            s.channels[i] = (int)job->blocks[s.blocks - 1 - i];
    }
    int groups = given(job->groups, 32);
    for (int i = 0; i < s.blocks; i++) {
        if (groups < 1 || s.channels[i] % groups)
            return imfd_usage_error(&job->usage,
                                    "--config: %d channels do not divide into %d groups; give "
                                    "groups=..",
                                    s.channels[i], groups);
    }
    return imf__vae_names(names, &s) == IMF_OK ? 0 : IMFD_EXIT_FAILURE;
}

static int inception_names(struct job *job, struct imf__names *names)
{
    int narrow = given(job->narrow, 1);
    if (!imf__inception_narrow_valid(narrow))
        return imfd_usage_error(&job->usage, "--config: narrow is %d, must be 1, 2, 4, 8 or 16",
                                narrow);
    return imf__inception_names(names, narrow) == IMF_OK ? 0 : IMFD_EXIT_FAILURE;
}

static int find_names(struct job *job, struct imf__names *names)
{
    bool vae = strcmp(job->model, "sd-vae") == 0, taesd = strcmp(job->model, "taesd") == 0;
    bool inception = strcmp(job->model, "inception") == 0;
    if (!inception && job->narrow >= 0)
        return imfd_usage_error(&job->usage, "--config: narrow is inception's");
    if (!vae && !taesd && !inception)
        return meanflow_names(job, names);
    if (job->depth >= 0 || job->hidden >= 0 || job->classes >= 0 || job->shared >= 0 ||
        job->mlp >= 0 || job->patch >= 0 || job->input_size >= 0 || job->head >= 0 ||
        job->bottleneck >= 0 || (!vae && (job->groups >= 0 || job->block_count)))
        return imfd_usage_error(&job->usage, "--config: %s has no such size", job->model);
    if (vae)
        return vae_names(job, names);
    if (inception)
        return inception_names(job, names);
    return imf__taesd_names(names) == IMF_OK ? 0 : IMFD_EXIT_FAILURE;
}

/* ---- Files ---- */

static int report(const struct imf_error *err)
{
    fprintf(stderr, "imfd synth: %s\n", err->message);
    return err->status == IMF_EINVAL ? IMFD_EXIT_USAGE : IMFD_EXIT_FAILURE;
}

/* diffusers' config.json beside a decoder's weights: the number of groups is not in them. */
static int write_config(const struct job *job, const char *folder)
{
    static const int published[] = {128, 256, 512, 512};
    int count = job->block_count ? job->block_count : 4;
    char *path = NULL;
    if (asprintf(&path, "%s/config.json", folder) < 0)
        return IMFD_EXIT_FAILURE;
    FILE *f = fopen(path, "w");
    if (f) {
        fprintf(f, "{\n  \"_class_name\": \"AutoencoderKL\",\n  \"act_fn\": \"silu\",\n"
                   "  \"block_out_channels\": [");
        for (int i = 0; i < count; i++)
            fprintf(f, "%s%ld", i ? ", " : "", job->block_count ? job->blocks[i] : published[i]);
        fprintf(f,
                "],\n  \"in_channels\": 3,\n  \"latent_channels\": 4,\n  \"layers_per_block\": 2,\n"
                "  \"norm_num_groups\": %d,\n  \"out_channels\": 3\n}\n",
                given(job->groups, 32));
    }
    bool failed = !f || ferror(f);
    if (f && fclose(f) != 0)
        failed = true;
    if (failed)
        fprintf(stderr, "imfd synth: %s: %s\n", path, strerror(errno));
    free(path);
    return failed ? IMFD_EXIT_FAILURE : IMFD_EXIT_OK;
}

/* The file to write: in a folder, the decoder's published name. */
static int output_path(struct job *job, char **path, bool *in_folder)
{
    struct stat st;
    *in_folder = stat(job->output, &st) == 0 && S_ISDIR(st.st_mode);
    if (*in_folder && strcmp(job->model, "sd-vae") != 0)
        return imfd_usage_error(&job->usage, "-o %s is a folder; name a file", job->output);
    int n = *in_folder ? asprintf(path, "%s/diffusion_pytorch_model.safetensors", job->output)
                       : asprintf(path, "%s", job->output);
    return n < 0 ? IMFD_EXIT_FAILURE : IMFD_EXIT_OK;
}

static int write_file(struct job *job, const struct imf__names *names)
{
    enum imf__stored_type type = strcmp(job->dtype, "f16") == 0    ? IMF__STORED_F16
                                 : strcmp(job->dtype, "bf16") == 0 ? IMF__STORED_BF16
                                                                   : IMF__STORED_F32;
    char *path = NULL, size[16];
    bool in_folder;
    int status = output_path(job, &path, &in_folder);
    if (status != IMFD_EXIT_OK)
        return status;
    snprintf(size, sizeof(size), "%ld", job->input_size);
    const char *const metadata[][2] = {{"input_size", size}};
    const struct imf__weights_params p = {.names = names,
                                          .type = type,
                                          .metadata = metadata,
                                          .metadata_count = job->writes_input_size};
    struct imfd_progress progress;
    struct imf_error err = {0};
    imfd_progress_start(&progress, "writing", NULL, 1, job->quiet);
    if (imf__synth_write(path, &p, job->seed, imfd_progress_fraction, &progress, &err) != IMF_OK)
        status = report(&err);
    else
        imfd_progress_end(&progress);
    if (status == IMFD_EXIT_OK && in_folder)
        status = write_config(job, job->output);
    struct stat st;
    if (status == IMFD_EXIT_OK && !job->quiet && stat(path, &st) == 0)
        printf("%s: %s, seed %llu, %llu parameters, %.1f MB\n", path, job->model,
               (unsigned long long)job->seed, (unsigned long long)names->parameters,
               (double)st.st_size / 1e6);
    free(path);
    return status;
}

#define AT(member) offsetof(struct job, member)

int imfd_cmd_synth(int argc, char **argv)
{
    struct job job = {0};
    static const struct imfd_option options[] = {
        IMFD_OPTION(STRING, "output", AT(output), .aliases = "o", .argument = "FILE",
                    .help =
                        "file to write: .pth or .safetensors; for sd-vae also a folder, which gets "
                        "config.json, "
                        "too"),
        IMFD_OPTION(UINT64, "seed", AT(seed), .argument = "K", .initial = "0",
                    .help = "seed of the weights"),
        IMFD_OPTION(
            STRING, "config", AT(config), .argument = "KEY=N,...",
            .help = "another size: depth, shared, hidden, head, mlp, classes, channels, patch, "
                    "input_size, "
                    "bottleneck; for "
                    "sd-vae channels=32:32:64:64 (block_out_channels) and groups; for inception "
                    "narrow=N, N "
                    "times fewer channels"),
        IMFD_OPTION(CHOICE, "dtype", AT(dtype), .argument = "TYPE", .initial = "f32",
                    .choices = "f32|f16|bf16", .help = "of the values"),
        IMFD_OPTION(FLAG, "quiet", AT(quiet), .aliases = "q", .help = "print nothing but errors"),
        {.name = NULL},
    };
    job.usage = (struct imfd_usage){
        .command = "synth",
        .operand = "MODEL|sd-vae|taesd|inception",
        .summary = "Writes synthetic weights: values that follow from each tensor's name and the "
                   "seed, the same everywhere. MODEL is MiT_B_2, MiT_M_2, MiT_L_2, MiT_XL_2, "
                   "pmfDiT_B_16 ... pmfDiT_H_32, or MiT or pmfDiT with --config.",
        .notes = "Without shared=N a depth above 8 has 8 u blocks, a smaller one half of its "
                 "blocks. exit status: 0 written, 1 failed, 2 wrong usage",
        .options = options,
    };
    switch (imfd_options_parse(&job.usage, &job, argc, argv, &job.model)) {
    case IMFD_PARSED_HELP:
        return IMFD_EXIT_OK;
    case IMFD_PARSED_ERROR:
        return IMFD_EXIT_USAGE;
    case IMFD_PARSED_RUN:
        break;
    }
    if (!job.model)
        return imfd_usage_error(
            &job.usage, "name a model: MiT_B_2, pmfDiT_B_16, ..., sd-vae, taesd, inception");
    if (!job.output)
        return imfd_usage_error(&job.usage, "-o FILE is missing");
    struct imf__names names = {0};
    int status = parse_config(&job);
    if (status == IMFD_EXIT_OK)
        status = find_names(&job, &names);
    if (status == IMFD_EXIT_OK)
        status = write_file(&job, &names);
    imf__names_free(&names);
    return status;
}
