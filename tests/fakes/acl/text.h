/* Text that grows: JSON is written into it. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>

struct text {
    char *at;
    size_t nbytes, room;
};

void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_quoted(struct text *text, const char *string);
void text_free(struct text *text);

#endif
