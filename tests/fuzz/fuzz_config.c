/* Any bytes as a config: every reader on every key must keep to its range, whatever it finds. */
#include "loaders/config.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

static void try_key(struct cfg *c, const char *key)
{
    static const char *const names[] = {"silu", "gelu"};
    int64_t v[4], one = cfg_int(c, key, CFG_REQUIRED, 3, 6);
    double d[4], real = cfg_float(c, key, CFG_REQUIRED_F, -0.5, 0.5);
    const char *s[4];
    bool b[4];
    CHECK(one >= 3 && one <= 6 && real >= -0.5 && real <= 0.5);
    cfg_bool(c, key, CFG_REQUIRED);
    CHECK(cfg_str(c, key, NULL));
    int choice = cfg_choice(c, key, CFG_REQUIRED, 2, names);
    CHECK(choice == 0 || choice == 1);
    int n = cfg_ints(c, key, 1, 4, v, -2, 9);
    CHECK(n >= 1 && n <= 4);
    for (int i = 0; i < n; i++) CHECK(v[i] >= -2 && v[i] <= 9);
    n = cfg_floats(c, key, 0, 4, d, 1, 2);
    CHECK(n >= 0 && n <= 4);
    for (int i = 0; i < n; i++) CHECK(d[i] >= 1 && d[i] <= 2);
    n = cfg_strs(c, key, 2, 4, s);
    CHECK(n >= 2 && n <= 4);
    for (int i = 0; i < n; i++) CHECK(s[i]);
    cfg_spread(c, key, 4, v, 5, 5, 7);
    for (int i = 0; i < 4; i++) CHECK(v[i] >= 5 && v[i] <= 7);
    cfg_spread_bools(c, key, 4, b, 0);
    for (int i = 0; i < 4; i++) CHECK(b[i] == 0 || b[i] == 1);
    cfg_is_strs(c, key, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cfg *c;
    struct dl_err e = {0};
    if (cfg_open_memory(&c, data, n, "fuzz", &e)) {
        CHECK(!c && e.code && *e.msg);
        return 0;
    }
    const char *key;
    for (size_t i = 0; (key = cfg_key(c, i)) && i < 100; i++) try_key(c, key);
    cfg_check(c, &e);
    cfg_close(c);
    return 0;
}
