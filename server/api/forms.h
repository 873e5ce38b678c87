/* The forms a picture reply may take: JSON, a file, multipart, server-sent events, npy, and
 * OpenAI's.
 */
#ifndef API_FORMS_H
#define API_FORMS_H

#include "api/internal.h"

#include <time.h>

enum form {
    FORM_JSON,
    FORM_FILE, /* one picture's bytes */
    FORM_MULTIPART,
    FORM_SSE,
    FORM_NPY,
    FORM_OPENAI_JSON,
    FORM_OPENAI_SSE,
    FORM_INFER,    /* tensors; see api/inference.h */
    FORM_RESOURCE, /* GET: a file with cache headers, which are set already */
};

struct infer_ask;

struct picture_job {
    struct api_call *call;
    enum form form;
    struct picture_params params; /* owned */
    struct infer_ask *infer;      /* of FORM_INFER; owned */
    struct sched_request *sched;  /* NULL before submission and once closed */
    bool broken;                  /* form_fail was called */
    bool ordered;                 /* pictures go out by index; early ones are held */
    bool counted, in_sse_list;
    uint32_t window, sent;
    time_t created;
    uint64_t last_write; /* ms, for pings */
    struct picture_job *next_sse, *previous_sse;
    struct buffer scratch; /* text of one picture */
    char boundary[48];
    /* Pictures that came before their turn, `window` by index; with FORM_INFER all of them, files
     * and then pixels. */
    uint32_t n_held;
    struct blob *held[];
};

/* Asks the scheduler for the pictures, or replies why not. Takes params and ask (may be NULL). */
void pictures_submit(struct api_call *c, enum form form, struct picture_params *params,
                     struct infer_ask *ask);
/* Starts a streamed reply. `first` (may be NULL) is the first picture, whose size fixes
 * Content-Length where there is one picture only. */
void form_begin(struct picture_job *job, struct blob *first);
void form_picture(struct picture_job *job, uint32_t index, struct blob *b); /* borrows b */
void form_end(struct picture_job *job);
/* The whole reply is this file; takes the reference. */
void form_reply_file(struct picture_job *job, struct blob *file);
/* The error reply, or, when the reply has begun, an error event or a cut connection. */
void form_fail(struct picture_job *job, const struct api_problem *p);

void form_binary_headers(struct api_call *c, const struct picture_params *params);
void form_server_timing(struct api_call *c);
/* Appends "/v1/images/...?..." of picture i. */
void form_resource_path(const struct api *a, const struct picture_params *params, uint32_t i,
                        struct buffer *out);

#endif
