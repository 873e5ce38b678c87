/* The devices of this process, and what is loaded on each: the generator with its decoder, and the
 * lanes of InceptionV3. */
#include "evaluate/setup.h"

#include "common/error.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool eval_is_cuda(const char *name)
{
    return strncmp(name, "cuda", 4) == 0;
}

/* The ranks of a machine share its GPUs; a CPU serves all of them. */
static void keep_own_devices(struct device_list *l, const struct imfd_mpi *mpi)
{
    int kept = 0, gpus = 0;
    for (int i = 0; i < l->n; i++)
        gpus += eval_is_cuda(l->names[i]);
    for (int i = 0, gpu = 0; i < l->n; i++) {
        bool mine = true;
        if (eval_is_cuda(l->names[i])) {
            mine = gpus >= mpi->local_size ? gpu % mpi->local_size == mpi->local_rank
                                           : gpu == mpi->local_rank % gpus;
            gpu++;
        }
        if (mine)
            memmove(l->names[kept++], l->names[i], sizeof(l->names[0]));
    }
    l->n = kept;
}

/* Threads of each CPU device: the processors this process may use. Where mpirun has not bound the
 * ranks to processors of their own, the ranks of the machine share them. */
static int cpu_threads(const struct eval_options *o, int devices, const struct imfd_mpi *mpi)
{
    if (o->device.threads)
        return o->device.threads;
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
    p.threads = eval_is_cuda(device) ? 0 : threads;
    p.reproducible = true; /* ranks and runs may have different numbers of threads */
    return imf_engine_create(out, &p, err);
}

/* Pictures a network takes at a time: at most a block's. */
static int batch_of(const struct eval_device *d, const struct eval_options *o)
{
    int batch = o->batch ? o->batch : eval_is_cuda(d->name) ? EVAL_BLOCK : 8;
    return batch < EVAL_BLOCK ? batch : EVAL_BLOCK;
}

static imf_status load_model(struct eval_device *d, const struct eval_options *o, bool show,
                             struct imf_error *err)
{
    struct imfd_progress bar;
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = o->checkpoint;
    p.checkpoint_key = o->checkpoint_key;
    p.noise_scale = o->noise_scale;
    p.decoder = o->decoder ? o->decoder : "none";
    p.max_batch = batch_of(d, o);
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
        if (!imf_precision_parse(&precision, o->device.precision))
            return imf__fail(err, IMF_EINVAL, "--precision must be auto, fp32 or bf16, not '%s'",
                             o->device.precision);
        status = open_engine(&d->engine, d->name, precision, threads, err);
        if (status == IMF_OK)
            status = load_model(d, o, show, err);
        if (status != IMF_OK)
            return status;
    }
    /* On a GPU the features get an engine and a stream of their own, on the CPU an engine for each
     * lane: InceptionV3 wants float32 whatever the generator runs in. */
    d->threads = threads;
    int lanes = eval_is_cuda(d->name) ? 1 : threads < EVAL_MAX_LANES ? threads : EVAL_MAX_LANES;
    for (int i = 0; i < lanes && status == IMF_OK; i++) {
        struct eval_lane *lane = &d->lanes[i];
        d->n_lanes = i + 1;
        status = open_engine(&lane->engine, d->name, IMF_PRECISION_FP32, threads / lanes, err);
        if (status == IMF_OK)
            status = imf_inception_load(&lane->net, lane->engine, o->inception,
                                        eval_is_cuda(d->name) ? batch_of(d, o) : 2, err);
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

imf_status eval_devices_load(struct eval_setup *s, const struct eval_job *job,
                             const struct imfd_ranks *ranks, struct imf_error *err)
{
    struct device_list list;
    int cpus = 0;
    imf_status status = devices_parse(&list, job->options.device.device, err);
    if (status != IMF_OK)
        return status;
    keep_own_devices(&list, &ranks->mpi);
    for (int i = 0; i < list.n; i++)
        cpus += !eval_is_cuda(list.names[i]);
    bool show = ranks->mpi.rank == 0 && !job->options.quiet;
    for (int i = 0; i < list.n && status == IMF_OK; i++) {
        struct eval_device *d = &s->devices[i];
        snprintf(d->name, sizeof(d->name), "%s", list.names[i]);
        s->n_devices = i + 1;
        status = load_device(d, job, cpu_threads(&job->options, cpus ? cpus : 1, &ranks->mpi), show,
                             err);
    }
    if (status == IMF_OK)
        describe_device(s);
    return status;
}

void eval_devices_free(struct eval_setup *s)
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
}
