/* Small host arrays on the device: row maps, key masks, sampler tables. Equal content is uploaded once, and lies at one
 * address that never changes content, so a captured graph may read it as long as the backend is open. */
#include "kernels/cuda/cuda_priv.h"

#include <stdlib.h>

enum { SLAB_BYTES = 1 << 20, CONST_ALIGN = 256 };

struct cuda_const {
    struct cuda_const *next;
    uint64_t hash;
    int64_t bytes;
    void *host;   /* copy, to compare with */
    void *device; /* the array */
    void *slab;   /* the allocation that begins with this array, or NULL: inside an earlier one */
    int64_t left; /* bytes free behind this array in its slab; counted in the newest entry only */
};

static uint64_t hash_of(const uint8_t *p, int64_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (int64_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static int64_t rounded(int64_t bytes) { return (bytes + CONST_ALIGN - 1) & ~(int64_t)(CONST_ALIGN - 1); }

/* Room for `bytes` behind the newest entry, or a slab of its own. */
static int place(struct dl_ctx *c, struct cuda_const *k, struct dl_err *e)
{
    struct cuda_const *top = c->consts;
    int64_t need = rounded(k->bytes), slab = need > SLAB_BYTES ? need : SLAB_BYTES;
    if (top && top->left >= need) {
        k->device = (uint8_t *)top->device + rounded(top->bytes);
        k->left = top->left - need;
        return 0;
    }
    if (c->be.alloc(c, slab, &k->slab, e) < 0) return -1;
    k->device = k->slab, k->left = slab - need;
    return 0;
}

const void *cuda_const(struct dl_run *r, const void *host, int64_t bytes)
{
    struct dl_ctx *c = r->ctx;
    if (!host || bytes <= 0 || !cuda_live(r)) return NULL;
    uint64_t hash = hash_of(host, bytes);
    for (struct cuda_const *k = c->consts; k; k = k->next)
        if (k->hash == hash && k->bytes == bytes && !memcmp(k->host, host, (size_t)bytes)) return k->device;
    if (c->capturing) {
        dl_fail(&r->err, DL_EFAIL, "a row map or table of %lld bytes is new in a capture; run the program once before",
                (long long)bytes);
        return NULL;
    }
    struct cuda_const *k = calloc(1, sizeof *k);
    void *copy = malloc((size_t)bytes);
    if (!k || !copy) {
        free(k), free(copy);
        dl_fail(&r->err, DL_ENOMEM, "no memory for a row map");
        return NULL;
    }
    *k = (struct cuda_const){.hash = hash, .bytes = bytes, .host = memcpy(copy, host, (size_t)bytes)};
    if (place(c, k, &r->err) < 0) {
        free(copy), free(k);
        return NULL;
    }
    k->next = c->consts, c->consts = k;
    return cuda_upload(c, k->device, host, bytes, &r->err) < 0 ? NULL : k->device;
}

void cuda_consts_close(struct dl_ctx *c)
{
    for (struct cuda_const *k = c->consts, *next; k; k = next) {
        next = k->next;
        if (k->slab) (void)cudaFree(k->slab);
        free(k->host);
        free(k);
    }
    c->consts = NULL;
}
