/* config.h: typed reading of a JSON object, such as a model's config.json.
 *
 *   struct cfg *c;
 *   if (cfg_open(&c, path, e)) return -1;
 *   m->width  = (int)cfg_int(c, "hidden_size", CFG_REQUIRED, 1, 65536);
 *   m->eps    = cfg_float(c, "layer_norm_eps", 1e-5, 0, 1);
 *   int rc = cfg_check(c, e);
 *   cfg_close(c);
 *
 * The first error sticks and names the file, the key, what was found and what was expected; until it is looked at, the
 * readers return values within the ranges asked for, so nothing needs to be checked in between. A key whose value is
 * null counts as absent, as diffusers writes it. Strings returned are owned by the cfg.
 */
#ifndef CFG_CONFIG_H
#define CFG_CONFIG_H

#include "engine/err.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cfg;

#define CFG_REQUIRED INT64_MIN /* as the fallback of cfg_int, cfg_bool, cfg_choice, cfg_spread: absence is an error */
#define CFG_REQUIRED_F NAN     /* the same for cfg_float */

/* Reads a file of at most 64 MiB holding one JSON object, nested at most 64 deep, no key twice. */
int cfg_open(struct cfg **c, const char *path, struct dl_err *e);
/* The same from n bytes in memory (not kept); label stands for the path in messages. */
int cfg_open_memory(struct cfg **c, const void *json, size_t n, const char *label, struct dl_err *e);
void cfg_close(struct cfg *c); /* NULL is fine */

/* 0, or -1 with the first error. */
int cfg_check(const struct cfg *c, struct dl_err *e);
const char *cfg_path(const struct cfg *c);

/* Whether the key is there and not null. */
bool cfg_has(const struct cfg *c, const char *key);

/* A whole number in [min, max]; 2.0 is not one. */
int64_t cfg_int(struct cfg *c, const char *key, int64_t fallback, int64_t min, int64_t max);
/* A finite number in [min, max], also one written without a point. */
double cfg_float(struct cfg *c, const char *key, double fallback, double min, double max);
bool cfg_bool(struct cfg *c, const char *key, int64_t fallback);
/* fallback NULL: required. Never returns NULL: "" after an error. */
const char *cfg_str(struct cfg *c, const char *key, const char *fallback);
/* The index of the string in names [n]; the error lists them all. fallback: an index. */
int cfg_choice(struct cfg *c, const char *key, int64_t fallback, int n, const char *const *names);

/* Lists into out [n_max]: the number of values, n_min..n_max; a scalar is a list of one. An absent key is 0 values, and
 * an error when n_min > 0. */
int cfg_ints(struct cfg *c, const char *key, int n_min, int n_max, int64_t *out, int64_t min, int64_t max);
int cfg_floats(struct cfg *c, const char *key, int n_min, int n_max, double *out, double min, double max);
int cfg_strs(struct cfg *c, const char *key, int n_min, int n_max, const char **out);
/* Whether the key holds a list of exactly n strings; never an error. */
bool cfg_is_strs(const struct cfg *c, const char *key, int n);

/* Exactly n values into out [n]: a list of n, or a scalar that stands for all of them, or the fallback for all. */
void cfg_spread(struct cfg *c, const char *key, int n, int64_t *out, int64_t fallback, int64_t min, int64_t max);
void cfg_spread_bools(struct cfg *c, const char *key, int n, bool *out, int64_t fallback);

/* The caller's own complaint about a key: "path: key: ...". For what no range can say. */
void cfg_fail(struct cfg *c, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Walks the object: key number i (in file order), or NULL past the end. */
const char *cfg_key(const struct cfg *c, size_t i);

#endif
