/* prompts.h: the prompts of a command, from --prompt or from a file.
 *
 * A prompts file is UTF-8 (a BOM and CRLF are fine) with one prompt a line, blank lines skipped; or JSON lines, when
 * its first character is '{': {"prompt": ..., "seed": ..., "negative": ...}, where seed and negative override the
 * command line.
 */
#ifndef TOOLS_PROMPTS_H
#define TOOLS_PROMPTS_H

#include "lens/lens.h"

struct prompts {
    struct lens_prompt *p; /* [n], owned */
    int n;
    bool seed_offset; /* set by the caller: command-line seeds count up by one per prompt */
};

/* Adds one prompt, copying everything. negative (NULL: none) and seeds [n_seeds] as the command line has them. */
int prompts_add(struct prompts *ps, const char *text, const char *negative, const uint64_t *seeds, int n_seeds,
                struct dl_err *e);
/* Adds all of a file; an error names the line. */
int prompts_read(struct prompts *ps, const char *path, const char *negative, const uint64_t *seeds, int n_seeds,
                 struct dl_err *e);
void prompts_close(struct prompts *ps);

/* Whether a text can be a prompt: UTF-8, at most 1 MB. */
int prompts_check(const char *text, struct dl_err *e);

/* A seed as torch takes it: 0..2^64-1, and -1 for 2^64-1. */
int prompts_seed(const char *option, const char *text, uint64_t *seed, struct dl_err *e);

/* A list of them: 17,18,30:34 (a:b counts from a to b-1), none named twice, into seeds [max]. The count, or < 0. */
int prompts_seeds(const char *option, const char *text, uint64_t *seeds, int max, struct dl_err *e);

#endif
