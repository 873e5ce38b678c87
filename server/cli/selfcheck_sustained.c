/* Sustained run: a memory fault, a race or a graph that differs from the eager pass shows as a bit
 * that changes between rounds. The first two rounds run operation by operation, the others replay
 * graphs where the device has them. */
#include "cli/selfcheck_sustained.h"
#include "common/clock.h"
#include "core/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 2, EAGER_ROUNDS = 2, ROUNDS_AT_LEAST = 6 };

struct sustained {
    struct imf__device *device;
    struct imf_model *model;
    struct imf_lane *lanes[SAMPLES];
    float *first; /* (SAMPLES, z_count) of the first round */
    size_t z_bytes;
    long rounds, steps;
    int differ; /* sample whose bits changed, or -1 */
};

static imf_status start(struct sustained *s, struct imf_error *err)
{
    static const int labels[SAMPLES] = {3, 7};
    const struct imf_sampling sampling = {.steps = 1, .omega = 8, .t_min = 0.4f, .t_max = 0.65f};
    for (int i = 0; i < SAMPLES; i++) {
        imf_status status =
            imf_lane_start(s->lanes[i], s->model, labels[i], (uint64_t)i, &sampling, err);
        if (status != IMF_OK)
            return status;
    }
    return IMF_OK;
}

static void compare(struct sustained *s)
{
    for (int i = 0; i < SAMPLES && s->differ < 0; i++)
        if (memcmp((char *)s->first + (size_t)i * s->z_bytes, s->lanes[i]->z, s->z_bytes) != 0)
            s->differ = i;
}

/* Odd rounds draw the samples one by one, even rounds together. */
static imf_status draw(struct sustained *s, struct imf_error *err)
{
    imf_status status = start(s, err);
    s->device->eager = s->rounds < EAGER_ROUNDS;
    bool alone = s->rounds % 2 == 1;
    for (int i = 0; i < (alone ? SAMPLES : 1) && status == IMF_OK; i++) {
        status = imf_step(s->model, &s->lanes[i], alone ? 1 : SAMPLES);
        s->steps++;
    }
    if (status != IMF_OK)
        return status;
    for (int i = 0; i < SAMPLES && s->rounds == 0; i++)
        memcpy((char *)s->first + (size_t)i * s->z_bytes, s->lanes[i]->z, s->z_bytes);
    compare(s);
    s->rounds++;
    return IMF_OK;
}

static imf_status open_model(struct sustained *s, struct imf_engine *e, const char *checkpoint,
                             struct imf_error *err)
{
    struct imf_model_params p;
    imf_model_params_init(&p);
    p.checkpoint = checkpoint;
    p.decoder = "none";
    p.max_batch = SAMPLES;
    imf_status status = imf_model_load(&s->model, e, &p, err);
    for (int i = 0; i < SAMPLES && status == IMF_OK; i++)
        status = imf_lane_create(&s->lanes[i], s->model);
    if (status != IMF_OK)
        return status;
    s->z_bytes = s->lanes[0]->z_count * sizeof(float);
    s->first = malloc(SAMPLES * s->z_bytes);
    return s->first ? IMF_OK : IMF_ENOMEM;
}

int imfd_selfcheck_sustained(struct imf_engine *e, const char *checkpoint, int seconds)
{
    struct sustained s = {.device = imf__engine_device(e), .differ = -1};
    struct imf_error err = {0};
    double begin = imf__seconds();
    imf_status status = open_model(&s, e, checkpoint, &err);
    while (status == IMF_OK && s.differ < 0 &&
           (s.rounds < ROUNDS_AT_LEAST || imf__seconds() - begin < seconds))
        status = draw(&s, &err);
    s.device->eager = false;
    bool ok = status == IMF_OK && s.differ < 0;
    printf("  sustained run      %ld steps in %.1f s  %s", s.steps, imf__seconds() - begin,
           ok ? "ok" : "MISS");
    if (status != IMF_OK)
        printf(": %s: %s", imf_status_sentence(status),
               err.message[0] ? err.message : imf_engine_error(e));
    else if (s.differ >= 0)
        printf(": round %ld, sample %d: bits changed", s.rounds, s.differ);
    printf("\n");
    for (int i = 0; i < SAMPLES; i++)
        imf_lane_destroy(s.lanes[i]);
    imf_model_destroy(s.model);
    free(s.first);
    return !ok;
}
