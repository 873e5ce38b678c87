/* Intrusive doubly linked list with a sentinel: an element that is in no list points at itself, so
 * removing twice does no harm. */
#ifndef LIST_H
#define LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}

static inline void list_append(struct list *l, struct list *element)
{
    element->prev = l->prev;
    element->next = l;
    l->prev->next = element;
    l->prev = element;
}

static inline void list_remove(struct list *element)
{
    element->prev->next = element->next;
    element->next->prev = element->prev;
    list_init(element);
}

/* The struct around a list element. */
#define LIST_OF(element, type, member) ((type *)(void *)((char *)(element)-offsetof(type, member)))

/* The body may remove `it`, but no other element. */
#define LIST_EACH(it, head)                                                                        \
    for (struct list *it = (head)->next, *it##_next = it->next; it != (head);                      \
         it = it##_next, it##_next = it->next)

#endif
