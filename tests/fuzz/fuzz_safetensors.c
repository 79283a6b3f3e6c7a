/* Any bytes as a safetensors file, and as a header with the right length in front. Whatever is accepted must be wholly
 * readable: names, metadata, every byte of every tensor, by every way of finding it. */
#include "loaders/bind.h"
#include "loaders/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) abort();                                                                                             \
    } while (0)

static void try_bind(const struct st_set *s)
{
    struct bind b;
    struct dl_wset set = {0};
    struct dl_w w[3];
    struct dl_err e = {0};
    CHECK(bind_open(&b, s, &set, &e) == 0);
    bind_w(&b, &w[0], BIND_MATRIX, "a", 2, (const int64_t[]){2, 3});
    bind_in(&b, "b");
    bind_norm(&b, &w[1], &w[2], "n", 4);
    bind_out(&b);
    bind_allow(&b, "ids");
    bind_close(&b, &e);
    for (int64_t i = 0; i < set.n; i++) {
        float out[6];
        CHECK(dl_w_count(set.w[i]) <= 6);
        memcpy(out, set.w[i]->part[0].file, (size_t)(dl_w_count(set.w[i]) * dl_type_bytes(set.w[i]->part[0].t)));
    }
    dl_wset_close(&set);
}

static void try_file(const uint8_t *p, int64_t n)
{
    struct st_file *f;
    struct st_set *s;
    struct dl_err e = {0};
    if (st_open_memory(&f, p, n, "fuzz", &e)) {
        CHECK(!f && e.code && *e.msg);
        return;
    }
    const uint8_t *at = st_file_count(f) ? st_file_at(f, 0)->data : p + n;
    for (int64_t i = 0; i < st_file_count(f); i++) {
        const struct st_tensor *t = st_file_at(f, i);
        int64_t count = 1;
        for (int j = 0; j < t->nd; j++) CHECK(t->dim[j] >= 0 && !__builtin_mul_overflow(count, t->dim[j], &count));
        CHECK(t->t == DL_NTYPES || count * dl_type_bytes(t->t) == t->bytes);
        /* The tensors cover the data exactly, in order. */
        CHECK(t->data == at);
        at += t->bytes;
        CHECK(st_find(f, t->name) == t);
        st_need(f, t->name, -1, t->nd, t->dim, &e);
    }
    CHECK(at == p + n);
    for (int64_t i = 0; i < st_meta_count(f); i++) {
        const char *key, *value;
        st_meta_at(f, i, &key, &value);
        CHECK(st_meta(f, key) == value);
    }
    if (st_set_of(&s, f, &e)) return;
    CHECK(st_set_count(s) == st_file_count(st_set_file(s, 0)));
    try_bind(s);
    st_set_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    try_file(data, (int64_t)n);
    /* Header and data, divided by a 0. */
    const uint8_t *end = memchr(data, 0, n);
    size_t len = end ? (size_t)(end - data) : n, rest = end ? n - len - 1 : 0;
    uint8_t *p = malloc(8 + len + rest);
    if (!p) return 0;
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)((uint64_t)len >> 8 * i);
    if (len) memcpy(p + 8, data, len);
    if (rest) memcpy(p + 8 + len, end + 1, rest);
    try_file(p, (int64_t)(8 + len + rest));
    free(p);
    return 0;
}
