/* texts.h: texts that tokenizers and cleaning are tested with: files of tests/unit/data/ with a JSON object a line, "s"
 * the text, "n" how often it stands there (once without), and what else a test wants of it.
 */
#ifndef TESTS_TEXTS_H
#define TESTS_TEXTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/folder.h"

#include <jansson.h>

#define DATA DLENS_SOURCE_DIR "/tests/unit/data/"

/* The bytes of a file with a zero byte behind them, to be freed; NULL where it cannot be read. */
static inline char *texts_read(const char *path, size_t *bytes)
{
    int64_t n;
    char *data = folder_read(path, &n);
    *bytes = (size_t)n;
    return data;
}

/* One text; `where` is the file, the line and how the text begins. */
typedef void texts_use(void *user, const char *text, size_t bytes, const json_t *line, const char *where);

/* Calls use for every line of data/FILE. */
static inline void texts_each(const char *file, texts_use *use, void *user)
{
    char path[1024], where[1000];
    size_t bytes;
    snprintf(path, sizeof path, "%s%s", DATA, file);
    char *all = texts_read(path, &bytes);
    assert_non_null(all);
    int line = 0;
    for (char *s = all, *next; *s; s = next) {
        next = strchr(s, '\n') + 1;
        json_t *o = json_loadb(s, (size_t)(next - s), JSON_ALLOW_NUL, NULL);
        assert_non_null(o);
        json_t *text = json_object_get(o, "s"), *n = json_object_get(o, "n");
        size_t one = json_string_length(text), times = n ? (size_t)json_integer_value(n) : 1;
        char *whole = malloc(one * times + 1);
        assert_non_null(whole);
        for (size_t i = 0; i < times; i++) memcpy(whole + i * one, json_string_value(text), one);
        whole[one * times] = 0;
        snprintf(where, sizeof where, "%s:%d: %.700s", file, ++line, json_string_value(text));
        use(user, whole, one * times, o, where);
        free(whole);
        json_decref(o);
    }
    free(all);
}

#endif
