/* The configuration file: JSON with comments. */
#include "common/error.h"
#include "settings/internal.h"
#include "base/json_read.h"
#include "base/read_file.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 20 };

/* Turns // and C comments into blanks, keeping line breaks so that error positions hold. */
static void blank_comments(char *text, size_t length)
{
    bool in_string = false;
    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (text[i] == '\\')
                i++;
            else if (text[i] == '"')
                in_string = false;
        } else if (text[i] == '"') {
            in_string = true;
        } else if (text[i] == '/' && i + 1 < length && text[i + 1] == '/') {
            while (i < length && text[i] != '\n')
                text[i++] = ' ';
        } else if (text[i] == '/' && i + 1 < length && text[i + 1] == '*') {
            text[i] = text[i + 1] = ' ';
            for (i += 2; i < length; i++) {
                bool end = text[i] == '*' && i + 1 < length && text[i + 1] == '/';
                if (text[i] != '\n')
                    text[i] = ' ';
                if (end) {
                    text[++i] = ' ';
                    break;
                }
            }
        }
    }
}

static imf_status set_value(struct settings *s, const cJSON *value, const char *name,
                            struct imf_error *err)
{
    char key[IMFD_OPTION_KEY_MAX];
    struct imf_error inner = {0};
    const struct imfd_option *o = settings__find(value->string, strlen(value->string));
    if (!o)
        return imf__fail(err, IMF_EINVAL, "%s: unknown key \"%.64s\"", name, value->string);
    if (imfd_option_set_json(o, imfd_option_key(o, key), s, value, &inner) != IMF_OK)
        return imf__fail(err, IMF_EINVAL, "%s: %s", name, inner.message);
    settings__note(s, o, ORIGIN_FILE);
    return IMF_OK;
}

imf_status settings__read_text(struct settings *s, const char *text, size_t length,
                               const char *name, struct imf_error *err)
{
    char *plain = malloc(length + 1);
    if (!plain)
        return imf__fail(err, IMF_EINVAL, "out of memory");
    memcpy(plain, text, length);
    plain[length] = '\0';
    blank_comments(plain, length);
    struct imf__json_fault fault;
    cJSON *root = json_read(plain, length, &fault);
    imf_status status = IMF_OK;
    if (!root && fault.twice) {
        status = imf__fail(err, IMF_EINVAL, "%s: line %d: key \"%s\" is given twice", name,
                           json_line(plain, fault.at), fault.key);
    } else if (!root) {
        status = imf__fail(err, IMF_EINVAL, "%s: line %d: not valid JSON: %s", name,
                           json_line(plain, fault.at), fault.why);
    } else if (!cJSON_IsObject(root)) {
        status = imf__fail(err, IMF_EINVAL, "%s: one object { ... } is expected", name);
    }
    for (const cJSON *value = root ? root->child : NULL; value && status == IMF_OK;
         value = value->next)
        status = set_value(s, value, name, err);
    s->json = root; /* texts point into it */
    free(plain);
    return status;
}

imf_status settings__read_file(struct settings *s, const char *path, struct imf_error *err)
{
    char *text;
    size_t n;
    IMF_TRY(imfd_read_file(&text, &n, path, MAX_FILE, false, err));
    imf_status status = settings__read_text(s, text, n, path, err);
    free(text);
    s->file = path;
    return status;
}
