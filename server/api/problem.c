/* What is wrong with a request, in words, and the errors of the contract. */
#include "api/internal.h"

#include <stdarg.h>
#include <stdio.h>

bool api_problem_set(struct api_problem *p, enum api_error kind, const char *param,
                     const char *format, ...)
{
    va_list args;
    va_start(args, format);
    p->kind = kind;
    p->param = param;
    p->retry_us = 0;
    p->memory = false;
    vsnprintf(p->message, sizeof(p->message), format, args);
    va_end(args);
    return false;
}

bool api_problem_memory(struct api_problem *p)
{
    api_problem_set(p, API_OVERLOADED, NULL, "out of memory");
    p->memory = true;
    return false;
}

bool api_problem_unknown(struct api_problem *p, const char *what, const char *name)
{
    snprintf(p->field, sizeof(p->field), "%s", name);
    return api_problem_set(p, API_UNKNOWN_FIELD, p->field, "unknown %s \"%s\"", what, p->field);
}

void api_problem_twice(struct api_problem *p, const char *name)
{
    snprintf(p->field, sizeof(p->field), "%s", name);
    api_problem_set(p, API_INVALID, p->field, "%s: given twice", p->field);
}

static const struct {
    int status;
    const char *type, *code;
} errors[] = {
#define API_ERROR_ROW(kind, status, type, code) {status, type, code},
    API_ERROR_MAP(API_ERROR_ROW)
#undef API_ERROR_ROW
};

void api_error_json(struct json_writer *w, const struct api_problem *p)
{
    json_object_begin(w);
    json_key(w, "error");
    json_object_begin(w);
    json_key(w, "message");
    json_string(w, p->message);
    json_key(w, "type");
    json_string(w, errors[p->kind].type);
    json_key(w, "param");
    json_string(w, p->param);
    json_key(w, "code");
    json_string(w, errors[p->kind].code);
    json_object_end(w);
    json_object_end(w);
}

const char *api_code(const struct api_problem *p)
{
    return errors[p->kind].code;
}

int api_status(const struct api_problem *p)
{
    return errors[p->kind].status;
}
