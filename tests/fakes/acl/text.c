/* Text that grows. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void make_room(struct text *text, size_t more)
{
    while (text->nbytes + more + 1 > text->room) {
        text->room = text->room ? text->room * 2 : 256;
        text->at = realloc(text->at, text->room);
        if (!text->at)
            abort();
    }
}

void text_add(struct text *text, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = vsnprintf(NULL, 0, format, list);
    va_end(list);
    make_room(text, (size_t)n);
    va_start(list, format);
    vsnprintf(text->at + text->nbytes, (size_t)n + 1, format, list);
    va_end(list);
    text->nbytes += (size_t)n;
}

void text_quoted(struct text *text, const char *string)
{
    text_add(text, "\"");
    for (; *string; string++) {
        if (*string == '"' || *string == '\\')
            text_add(text, "\\%c", *string);
        else if ((unsigned char)*string < 0x20)
            text_add(text, "\\u%04x", *string);
        else
            text_add(text, "%c", *string);
    }
    text_add(text, "\"");
}

void text_free(struct text *text)
{
    free(text->at);
    *text = (struct text){0};
}
