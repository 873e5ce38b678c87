/* Lists of tensors; see names.h. */
#include "files/names.h"

#include <stdlib.h>
#include <string.h>

void imf__names_free(struct imf__names *names)
{
    free(names->items);
    *names = (struct imf__names){0};
}

const struct imf__name *imf__names_find(const struct imf__names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++) {
        if (strcmp(names->items[i].name, name) == 0)
            return &names->items[i];
    }
    return NULL;
}
