/* imfd: one program, several commands. */
#include "imf.h"

#include <stdio.h>

int main(void)
{
    printf("imfd %s\n", imf_version());
    return 0;
}
