/* Device and pinned memory of the emulator, used by the runtime calls. */
#ifndef IMF_EMU_MEMORY_H
#define IMF_EMU_MEMORY_H

#include "emu_internal.h"

bool emu_memory_alloc(int device, size_t size, size_t total, void **out);
bool emu_memory_free(void *p); /* false and a report when p is no live allocation */
size_t emu_memory_used(int device);

bool emu_pinned_alloc(size_t size, void **out);
bool emu_pinned_register(void *p, size_t size);
bool emu_pinned_free(void *p, bool registered);
bool emu_pinned_find(const void *p);
int emu_pinned_live(void);

/* From here on the host must leave the pinned range alone (or not write it). 0: not pinned. */
uint64_t emu_pending_begin(void *host, size_t size, bool device_writes);
void emu_pending_end(uint64_t id);

void emu_thread_altstack(void);
int emu_devices(void); /* how many the environment asks for */

#endif
