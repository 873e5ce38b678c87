/* Loading what an evaluation needs, and looking at what its workdir already holds. */
#include "evaluate_setup.h"

#include "error.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, MAX_RESULTS = 1 << 20 };

/* ---- Devices ------------------------------------------------------------------------------- */

static bool is_cuda(const char *name)
{
    return strncmp(name, "cuda", 4) == 0;
}

/* Names of all devices of this machine that --device means. */
static imf_status list_devices(const char *wanted, char names[EVAL_MAX_DEVICES][32], int *n,
                               struct imf_error *err)
{
    *n = 0;
    if (strcmp(wanted, "auto") == 0 || strcmp(wanted, "cuda") == 0) {
        char reason[256] = "";
        int gpus = imf_cuda_device_count(reason, sizeof(reason));
        if (gpus == 0 && strcmp(wanted, "cuda") == 0)
            return imf__fail(err, IMF_EINVAL, "--device cuda: %s", reason);
        for (int i = 0; i < gpus && i < EVAL_MAX_DEVICES; i++)
            snprintf(names[(*n)++], 32, "cuda:%d", i);
        if (*n == 0)
            snprintf(names[(*n)++], 32, "cpu");
        return IMF_OK;
    }
    for (const char *p = wanted; *p;) {
        size_t length = strcspn(p, ",");
        if (length == 0 || length >= 32 || *n == EVAL_MAX_DEVICES)
            return imf__fail(err, IMF_EINVAL, "--device '%s' is no list like cuda:0,cuda:1",
                             wanted);
        snprintf(names[(*n)++], 32, "%.*s", (int)length, p);
        p += length + (p[length] == ',');
    }
    return *n ? IMF_OK : imf__fail(err, IMF_EINVAL, "--device is empty");
}

/* The ranks of a machine share its GPUs; a CPU serves all of them. */
static void keep_own_devices(char names[EVAL_MAX_DEVICES][32], int *n, const struct imfd_mpi *mpi)
{
    int kept = 0, gpus = 0;
    for (int i = 0; i < *n; i++)
        gpus += is_cuda(names[i]);
    for (int i = 0, gpu = 0; i < *n; i++) {
        bool mine = true;
        if (is_cuda(names[i])) {
            mine = gpus >= mpi->local_size ? gpu % mpi->local_size == mpi->local_rank
                                           : gpu == mpi->local_rank % gpus;
            gpu++;
        }
        if (mine)
            memmove(names[kept++], names[i], 32);
    }
    *n = kept;
}

/* Threads of each CPU device: the processors this process may use. Where mpirun has not bound the
 * ranks to processors of their own, the ranks of the machine share them. */
static int cpu_threads(const struct eval_options *o, int devices, const struct imfd_mpi *mpi)
{
    if (o->threads)
        return o->threads;
    cpu_set_t set;
    int usable = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    int sharing = usable >= sysconf(_SC_NPROCESSORS_ONLN) ? mpi->local_size : 1;
    int threads = usable / (sharing * devices);
    return threads < 1 ? 1 : threads;
}

static imf_status open_engine(struct imf_engine **out, const char *device,
                              enum imf_precision precision, int threads, struct imf_error *err)
{
    struct imf_engine_params p;
    imf_engine_params_init(&p);
    p.device = device;
    p.precision = precision;
    p.threads = is_cuda(device) ? 0 : threads;
    p.reproducible = true; /* ranks and runs may have different numbers of threads */
    return imf_engine_create(out, &p, err);
}

static imf_status load_model(struct eval_device *d, const struct eval_options *o, bool show,
                             struct imf_error *err)
{
    struct imfd_progress bar;
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = o->checkpoint;
    p.decoder = o->decoder;
    p.max_batch = o->batch ? o->batch : is_cuda(d->name) ? EVAL_BLOCK : 8;
    if (p.max_batch > EVAL_BLOCK)
        p.max_batch = EVAL_BLOCK; /* a block is at most that many pictures */
    imfd_progress_start(&bar, "loading", NULL, 1, !show);
    p.progress = imfd_progress_fraction;
    p.progress_user = &bar;
    imf_status status = imf_model_load(&d->model, d->engine, &p, err);
    imfd_progress_end(&bar);
    return status;
}

static imf_status load_device(struct eval_device *d, const struct eval_job *job, int threads,
                              bool show, struct imf_error *err)
{
    const struct eval_options *o = &job->options;
    imf_status status = IMF_OK;
    if (!o->images) {
        enum imf_precision precision;
        if (!imf_precision_parse(&precision, o->precision))
            return imf__fail(err, IMF_EINVAL, "--precision must be auto, fp32 or bf16, not '%s'",
                             o->precision);
        status = open_engine(&d->engine, d->name, precision, threads, err);
        if (status == IMF_OK)
            status = load_model(d, o, show, err);
        if (status != IMF_OK)
            return status;
    }
    /* On a GPU the features get an engine and a stream of their own, on the CPU an engine for each
     * lane: InceptionV3 wants float32 whatever the generator runs in. */
    d->overlap = is_cuda(d->name) || o->overlap;
    d->threads = threads;
    int lanes = is_cuda(d->name) ? 1 : threads < EVAL_MAX_LANES ? threads : EVAL_MAX_LANES;
    for (int i = 0; i < lanes && status == IMF_OK; i++) {
        struct eval_lane *lane = &d->lanes[i];
        d->n_lanes = i + 1;
        status = open_engine(&lane->engine, d->name, IMF_PRECISION_FP32, threads / lanes, err);
        if (status == IMF_OK)
            status = imf_inception_load(&lane->net, lane->engine, o->inception,
                                        is_cuda(d->name) ? 0 : 2, err);
    }
    return status;
}

imf_status eval_matmul_rate(const struct eval_device *d, double *rate)
{
    struct imf_engine *e = NULL;
    imf_status status = open_engine(&e, d->name, IMF_PRECISION_FP32, d->threads, NULL);
    if (status == IMF_OK)
        status = imf_engine_matmul_rate(e, rate);
    imf_engine_destroy(e);
    return status;
}

/* What the report calls the device: the generator's engine where there is one. */
static void describe_device(struct eval_setup *s)
{
    const struct eval_device *d = &s->devices[0];
    const struct imf_engine *e = d->engine ? d->engine : d->lanes[0].engine;
    const char *text = imf_engine_get_info(e)->description;
    if (d->engine || d->n_lanes == 1)
        snprintf(s->description, sizeof(s->description), "%s", text);
    else
        snprintf(s->description, sizeof(s->description), "%d lanes on %.140s", d->n_lanes, text);
}

static imf_status load_devices(struct eval_setup *s, const struct eval_job *job,
                               const struct imfd_ranks *ranks, struct imf_error *err)
{
    char names[EVAL_MAX_DEVICES][32];
    int n, cpus = 0;
    imf_status status = list_devices(job->options.device, names, &n, err);
    if (status != IMF_OK)
        return status;
    keep_own_devices(names, &n, &ranks->mpi);
    for (int i = 0; i < n; i++)
        cpus += !is_cuda(names[i]);
    bool show = ranks->mpi.rank == 0 && !job->options.quiet;
    for (int i = 0; i < n && status == IMF_OK; i++) {
        struct eval_device *d = &s->devices[i];
        memcpy(d->name, names[i], sizeof(d->name));
        s->n_devices = i + 1;
        status = load_device(d, job, cpu_threads(&job->options, cpus ? cpus : 1, &ranks->mpi), show,
                             err);
    }
    return status;
}

/* ---- Settings ------------------------------------------------------------------------------ */

static imf_status choose_sampling(struct eval_job *job, const struct imf_model_info *info,
                                  struct imf_error *err)
{
    const struct eval_options *o = &job->options;
    struct imf_sampling *p = &job->sampling;
    *p = info->defaults;
    if (o->steps_given)
        p->steps = o->steps;
    if (o->omega_given)
        p->omega = o->omega;
    if (o->t_min_given)
        p->t_min = o->t_min;
    if (o->t_max_given)
        p->t_max = o->t_max;
    if (p->t_min > p->t_max)
        return imf__fail(err, IMF_EINVAL, "--interval-min %g is above --interval-max %g",
                         (double)p->t_min, (double)p->t_max);
    return IMF_OK;
}

static imf_status describe_model(struct eval_job *job, const struct eval_setup *s,
                                 struct imf_error *err)
{
    const struct imf_model_info *info = imf_model_get_info(s->devices[0].model);
    const struct eval_options *o = &job->options;
    if (o->model && strcmp(o->model, info->name) != 0)
        return imf__fail(err, IMF_EINVAL, "%s holds %s, not --model %s", o->checkpoint, info->name,
                         o->model);
    job->classes = info->classes;
    job->width = info->image_width;
    job->height = info->image_height;
    job->images = o->num_images;
    int64_t below = job->images / info->classes * info->classes;
    if (below != job->images)
        return imf__fail(err, IMF_EINVAL,
                         "--num-images %lld is not a multiple of the model's %d classes, which get "
                         "equally many pictures: use %lld",
                         (long long)job->images, info->classes,
                         (long long)(below ? below : info->classes));
    return choose_sampling(job, info, err);
}

/* Names, sizes and times of the files, for the settings: a changed folder is another evaluation. */
static imf_status fingerprint_files(const struct eval_job *job, char text[33],
                                    struct imf_error *err)
{
    uint64_t h[2] = {0xcbf29ce484222325u, 0x84222325cbf29ce4u};
    for (int64_t i = 0; i < job->images; i++) {
        struct stat st;
        if (stat(job->files[i], &st) != 0)
            return imf__fail(err, IMF_EIO, "%s: %s", job->files[i], strerror(errno));
        const char *name = strrchr(job->files[i], '/') + 1;
        uint64_t words[] = {(uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                            (uint64_t)st.st_mtim.tv_nsec};
        for (int k = 0; k < 2; k++) {
            for (const char *c = name; *c; c++)
                h[k] = (h[k] ^ (unsigned char)*c) * 0x100000001b3u;
            for (int w = 0; w < 3; w++)
                h[k] = (h[k] ^ words[w]) * 0x100000001b3u;
        }
    }
    snprintf(text, 33, "%016llx%016llx", (unsigned long long)h[0], (unsigned long long)h[1]);
    return IMF_OK;
}

/* A float as the shortest decimal number that means it, so that 0.4 is written 0.4. */
static void add_float(cJSON *json, const char *name, float value)
{
    char text[32];
    snprintf(text, sizeof(text), "%.7g", (double)value);
    cJSON_AddNumberToObject(json, name, strtod(text, NULL));
}

/* Everything that decides the result, in fixed order; a line each. */
static imf_status describe(struct eval_job *job, const struct eval_setup *s, struct imf_error *err)
{
    const struct eval_device *d = &s->devices[0];
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "images", (double)job->images);
    cJSON_AddNumberToObject(json, "block", EVAL_BLOCK);
    if (job->files) {
        char text[33];
        imf_status status = fingerprint_files(job, text, err);
        if (status != IMF_OK) {
            cJSON_Delete(json);
            return status;
        }
        cJSON_AddStringToObject(json, "folder", text);
    } else {
        const struct imf_model_info *info = imf_model_get_info(d->model);
        char seed[32];
        snprintf(seed, sizeof(seed), "%llu", (unsigned long long)job->options.sample_seed);
        cJSON_AddStringToObject(json, "model", info->name);
        cJSON_AddStringToObject(json, "decoder", info->decoder);
        cJSON_AddStringToObject(json, "fingerprint", info->fingerprint);
        cJSON_AddStringToObject(json, "precision",
                                imf_precision_name(imf_engine_get_info(d->engine)->precision));
        cJSON_AddNumberToObject(json, "classes", info->classes);
        cJSON_AddNumberToObject(json, "steps", job->sampling.steps);
        add_float(json, "omega", job->sampling.omega);
        add_float(json, "t_min", job->sampling.t_min);
        add_float(json, "t_max", job->sampling.t_max);
        cJSON_AddStringToObject(json, "sample_seed", seed);
    }
    cJSON_AddStringToObject(json, "inception", imf_inception_fingerprint(d->lanes[0].net));
    cJSON_AddStringToObject(json, "device", is_cuda(d->name) ? "cuda" : "cpu");
    cJSON_AddBoolToObject(json, "features_kept", job->want_features);
    job->settings = cJSON_Print(json);
    cJSON_Delete(json);
    return job->settings ? IMF_OK : imf__fail(err, IMF_ENOMEM, "out of memory");
}

/* Before hours of work: can the numbers asked for be computed, and written? */
static imf_status check_reference(struct eval_setup *s, const struct eval_options *o,
                                  struct imf_error *err)
{
    bool features = o->kid || o->precision_recall;
    imf_status status = imf_reference_read(&s->reference, o->fid_ref, IMF_FEATURES, features, err);
    if (status != IMF_OK || !features)
        return status;
    if (!s->reference->features)
        return imf__fail(err, IMF_EINVAL,
                         "%s holds no features, which --kid and --precision-recall need: make it "
                         "with imfd evaluate --images DIR --make-ref FILE --keep-features",
                         o->fid_ref);
    if (o->kid && s->reference->count < o->kid_subset_size)
        return imf__fail(err, IMF_EINVAL,
                         "%s holds %lld rows of features; pass --kid-subset-size "
                         "of at most that",
                         o->fid_ref, (long long)s->reference->count);
    if (o->precision_recall && s->reference->count <= EVAL_PR_K)
        return imf__fail(err, IMF_EINVAL, "%s holds too few rows of features", o->fid_ref);
    return IMF_OK;
}

static imf_status check_make_ref(const char *path, struct imf_error *err)
{
    char folder[PATH_SIZE];
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = '\0';
    if (access(slash ? folder : ".", W_OK) != 0)
        return imf__fail(err, IMF_EINVAL, "--make-ref %s: %s", path, strerror(errno));
    return IMF_OK;
}

imf_status eval_setup_load(struct eval_setup *s, struct eval_job *job,
                           const struct imfd_ranks *ranks, struct imf_error *err)
{
    struct eval_options options = job->options;
    memset(job, 0, sizeof(*job));
    job->options = options;
    job->want_features = options.kid || options.precision_recall || options.keep_features;
    imf_status status = IMF_OK;
    if (options.fid_ref && ranks->mpi.rank == 0)
        status = check_reference(s, &options, err);
    if (status == IMF_OK && options.make_ref && ranks->mpi.rank == 0)
        status = check_make_ref(options.make_ref, err);
    if (status == IMF_OK && options.images)
        status = eval_list_images(options.images, options.num_images_given ? options.num_images : 0,
                                  &job->files, &job->images, err);
    if (status == IMF_OK)
        status = load_devices(s, job, ranks, err);
    if (status == IMF_OK && !options.images)
        status = describe_model(job, s, err);
    if (status == IMF_OK && job->images < EVAL_IS_SPLITS)
        status = imf__fail(err, IMF_EINVAL, "the Inception Score needs at least %d images",
                           EVAL_IS_SPLITS);
    if (status == IMF_OK && options.kid && job->images < options.kid_subset_size)
        status = imf__fail(err, IMF_EINVAL, "--kid-subset-size %d is more than the %lld images",
                           options.kid_subset_size, (long long)job->images);
    if (status != IMF_OK)
        return status;
    job->blocks = (job->images + EVAL_BLOCK - 1) / EVAL_BLOCK;
    describe_device(s);
    return describe(job, s, err);
}

void eval_setup_free(struct eval_setup *s, struct eval_job *job)
{
    for (int i = 0; i < s->n_devices; i++) {
        struct eval_device *d = &s->devices[i];
        for (int k = 0; k < d->n_lanes; k++) {
            imf_inception_destroy(d->lanes[k].net);
            imf_engine_destroy(d->lanes[k].engine);
        }
        imf_model_destroy(d->model);
        imf_engine_destroy(d->engine);
    }
    imf_reference_free(s->reference);
    eval_free_list(job->files, job->files ? job->images : 0);
    free(job->settings);
}

/* ---- Workdir ------------------------------------------------------------------------------- */

/* mkdir -p. */
static imf_status make_folder(const char *path, struct imf_error *err)
{
    char part[PATH_SIZE];
    size_t n = strlen(path);
    if (n >= sizeof(part))
        return imf__fail(err, IMF_EINVAL, "--workdir: path too long");
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return imf__fail(err, IMF_EIO, "%s: cannot be made: %s", part, strerror(errno));
    }
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode) || access(path, W_OK) != 0)
        return imf__fail(err, IMF_EIO, "%s: not a folder that can be written", path);
    return IMF_OK;
}

static cJSON *read_results(const char *workdir)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/results.json", workdir);
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *text = malloc(MAX_RESULTS);
    size_t n = text ? fread(text, 1, MAX_RESULTS - 1, f) : 0;
    fclose(f);
    if (text)
        text[n] = '\0';
    cJSON *json = text ? cJSON_Parse(text) : NULL;
    free(text);
    return json;
}

static void print_old_report(const char *workdir)
{
    char path[PATH_SIZE], line[1024];
    snprintf(path, sizeof(path), "%s/report.txt", workdir);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        fputs(line, stdout);
    if (f)
        fclose(f);
}

/* A finished evaluation in the workdir: the same, against the same reference, is shown again; the
 * same pictures against another reference are measured again; other settings are refused. */
static imf_status look_at_results(const struct eval_job *job, const struct eval_setup *setup,
                                  bool *finished, struct imf_error *err)
{
    cJSON *json = read_results(job->options.workdir);
    if (!json)
        return IMF_OK;
    imf_status status = IMF_OK;
    cJSON *settings = cJSON_GetObjectItemCaseSensitive(json, "settings");
    cJSON *now = cJSON_Parse(job->settings);
    const cJSON *reference = cJSON_GetObjectItemCaseSensitive(json, "reference_fingerprint");
    const char *theirs = cJSON_IsString(reference) ? reference->valuestring : "";
    const char *ours = setup->reference ? setup->reference->fingerprint : "";
    if (!cJSON_Compare(settings, now, true)) {
        status = imf__fail(err, IMF_EINVAL,
                           "%s holds a finished evaluation with other settings: use another "
                           "--workdir, or --restart to discard it",
                           job->options.workdir);
    } else if (strcmp(theirs, ours) == 0 && !job->options.make_ref) {
        fprintf(stderr,
                "imfd evaluate: %s holds this evaluation already (--restart measures "
                "again)\n",
                job->options.workdir);
        print_old_report(job->options.workdir);
        *finished = true;
    }
    cJSON_Delete(json);
    cJSON_Delete(now);
    return status;
}

static void discard(const struct eval_job *job)
{
    static const char *const names[] = {"results.json", "report.txt", "report.html", "grid.png"};
    char path[PATH_SIZE];
    eval_state_remove(job);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s/%s", job->options.workdir, names[i]);
        unlink(path);
    }
}

imf_status eval_workdir_prepare(const struct eval_job *job, const struct eval_setup *setup,
                                int rank, bool *finished, struct imf_error *err)
{
    char path[PATH_SIZE];
    imf_status status = make_folder(job->options.workdir, err);
    if (status == IMF_OK) {
        snprintf(path, sizeof(path), "%s/grid", job->options.workdir);
        status = make_folder(path, err);
    }
    if (status == IMF_OK && job->options.save_samples) {
        snprintf(path, sizeof(path), "%s/samples", job->options.workdir);
        status = make_folder(path, err);
    }
    if (status != IMF_OK)
        return status;
    if (job->options.restart) {
        if (rank == 0)
            discard(job);
        else /* where the workdir is not shared */
            eval_state_remove_own(job, rank);
        return IMF_OK;
    }
    return rank == 0 ? look_at_results(job, setup, finished, err) : IMF_OK;
}
