/* Pictures from a folder, and pictures into the workdir. */
#include "evaluate/run.h"

#include "common/clock.h"
#include "common/error.h"

#include <stdlib.h>
#include <string.h>

static imf_status read_block(struct eval_run *r, struct eval_block *b, struct imf_error *err)
{
    size_t used = 0;
    for (int i = 0; i < b->n; i++) {
        uint8_t *rgb = NULL;
        imf_status status = eval_source_read(r->job->source, b->number * EVAL_BLOCK + i, &rgb,
                                             &b->width[i], &b->height[i], err);
        if (status != IMF_OK)
            return status;
        size_t bytes = (size_t)b->width[i] * (size_t)b->height[i] * 3;
        uint8_t *grown = realloc(b->rgb, used + bytes);
        if (!grown) {
            free(rgb);
            return imf__fail(err, IMF_ENOMEM, "out of memory");
        }
        b->rgb = grown;
        memcpy(b->rgb + used, rgb, bytes);
        b->offset[i] = used;
        used += bytes;
        free(rgb);
    }
    return IMF_OK;
}

void eval_read_pictures(struct eval_run *r)
{
    struct eval_block *b;
    while ((b = eval_next_block(r))) {
        struct imf_error err = {0};
        imf_status status = read_block(r, b, &err);
        if (status != IMF_OK) {
            eval_fail(r, status, &err);
            break;
        }
        eval_queue_push(&r->pictures, b);
    }
    eval_queue_leave(&r->pictures);
}

static void keep_block(struct eval_run *r, const struct eval_block *b)
{
    struct imf_error err = {0};
    double start = imf__seconds();
    imf_status status = IMF_OK;
    for (int i = 0; i < b->n && status == IMF_OK && !atomic_load(&r->failed); i++)
        status = eval_keep_picture(r->job, b->number * EVAL_BLOCK + i, b->rgb + b->offset[i],
                                   b->width[i], b->height[i], &err);
    if (status != IMF_OK)
        eval_fail(r, status, &err);
    eval_add_time(r, &r->times.save, imf__seconds() - start);
}

void eval_keep_pictures(struct eval_run *r)
{
    struct eval_block *b;
    while (eval_queue_pop(&r->featured, &b, 0)) {
        if (!atomic_load(&b->dropped))
            keep_block(r, b);
        free(b->rgb);
        b->rgb = NULL;
        eval_queue_push(&r->kept, b);
    }
    eval_queue_leave(&r->kept);
}
