/* What the backend's files share. An instance is a scheduler with a loop of its own, which runs
 * while Triton's thread is inside Initialize or Execute. */
#ifndef TRITON_INTERNAL_H
#define TRITON_INTERNAL_H

#include "scheduler/scheduler.h"
#include "triton/triton_api.h"

struct triton_instance {
    uv_loop_t loop;
    struct scheduler *scheduler;
    struct imf_model_info info;
    bool decoupled;    /* a response for every picture, as soon as it is there */
    char message[256]; /* why the model failed */
};

/* One request of Triton's. */
struct triton_call {
    struct triton_instance *instance;
    TRITONBACKEND_Request *request;
    struct sched_request *sched;
    uint32_t n;
    int32_t *labels;
    uint64_t *seeds;
    struct imf_sampling *samplings;
    bool image, pixels, seed, index;        /* outputs asked for */
    TRITONBACKEND_ResponseFactory *factory; /* decoupled */
    struct blob **files, **rgb;
    bool ended, finished;      /* finished: its last response is sent */
    TRITONSERVER_Error *error; /* NULL: none so far */
};

__attribute__((format(printf, 2, 3))) TRITONSERVER_Error *triton_error(TRITONSERVER_Error_Code code,
                                                                       const char *format, ...);

/* Reads inputs and outputs asked for; false with c->error. */
bool triton_read(struct triton_call *c);
/* Decoupled: sends picture i, and forgets it. A failure stays in c->error. */
void triton_send_picture(struct triton_call *c, uint32_t i);
/* Sends the response (decoupled: the sign that no other follows) or c->error, and frees what the
 * call holds. */
void triton_send(struct triton_call *c);

#endif
