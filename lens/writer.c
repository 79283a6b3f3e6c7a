#include "lens/writer.h"
#include "lens/outfile.h"
#include "lens/sha256.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct item {
    char *path;
    int64_t index;
    uint8_t *rgb; /* [h][w][3] */
    int w, h;
    struct dl_png_text *text; /* [n_text] */
    int n_text;
};

struct writer {
    pthread_t thread;
    pthread_mutex_t lock; /* over all below */
    pthread_cond_t more;  /* an item came, or the end */
    pthread_cond_t room;  /* an item went, or the writer failed */
    struct item *item;    /* [size] ring */
    int size, first, n;
    bool end;
    struct dl_err err; /* the first failure */
    writer_done done;
    void *ctx;
};

static void item_free(struct item *it)
{
    for (int i = 0; i < it->n_text; i++) {
        free((char *)it->text[i].key);
        free((char *)it->text[i].value);
    }
    free(it->text);
    free(it->rgb);
    free(it->path);
}

static int item_copy(struct item *it, const struct writer_job *j)
{
    size_t bytes = (size_t)j->w * (size_t)j->h * 3;
    *it = (struct item){.index = j->index, .w = j->w, .h = j->h};
    it->path = strdup(j->path);
    it->rgb = malloc(bytes);
    it->text = calloc((size_t)j->n_text + 1, sizeof *it->text);
    bool whole = it->path && it->rgb && it->text;
    for (int i = 0; whole && i < j->n_text; i++) {
        it->text[i] = (struct dl_png_text){strdup(j->text[i].key), strdup(j->text[i].value)};
        it->n_text++;
        whole = it->text[i].key && it->text[i].value;
    }
    if (!whole) {
        item_free(it);
        return -1;
    }
    memcpy(it->rgb, j->rgb, bytes);
    return 0;
}

static int put(struct writer *w, struct item *it, struct dl_err *e)
{
    uint8_t *data;
    int64_t bytes;
    char hex[SHA256_HEX];
    if (dl_png_encode(it->rgb, it->w, it->h, it->text, it->n_text, &data, &bytes, e))
        return dl_fail_in(e, "%s", it->path);
    sha256_bytes(hex, data, bytes);
    int rc = outfile_write(it->path, data, bytes, e);
    free(data);
    if (!rc && w->done) rc = w->done(w->ctx, it->index, hex, bytes, e);
    return rc;
}

static void *run(void *arg)
{
    struct writer *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->n && !w->end) pthread_cond_wait(&w->more, &w->lock);
        if (!w->n) break;
        struct item it = w->item[w->first];
        bool drop = w->err.code != DL_OK;
        pthread_mutex_unlock(&w->lock);
        struct dl_err e = {0};
        int rc = drop ? 0 : put(w, &it, &e);
        item_free(&it);
        pthread_mutex_lock(&w->lock);
        if (rc) w->err = e;
        w->first = (w->first + 1) % w->size;
        w->n--;
        pthread_cond_broadcast(&w->room);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void release(struct writer *w)
{
    pthread_cond_destroy(&w->room);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w->item);
    free(w);
}

int writer_open(struct writer **out, int queue, writer_done done, void *ctx, struct dl_err *e)
{
    *out = NULL;
    struct writer *w = calloc(1, sizeof *w);
    if (w) w->item = calloc((size_t)queue, sizeof *w->item);
    if (!w || !w->item) {
        free(w);
        return dl_fail(e, DL_ENOMEM, "image writer: no memory");
    }
    w->size = queue;
    w->done = done;
    w->ctx = ctx;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    pthread_cond_init(&w->room, NULL);
    int why = pthread_create(&w->thread, NULL, run, w);
    if (why) {
        release(w);
        return dl_fail(e, DL_EFAIL, "image writer: no thread can be started: %s", strerror(why));
    }
    *out = w;
    return 0;
}

int writer_push(struct writer *w, const struct writer_job *job, struct dl_err *e)
{
    struct item it;
    if (item_copy(&it, job))
        return dl_fail(e, DL_ENOMEM, "%s: no memory for its %d x %d pixels", job->path, job->w, job->h);
    pthread_mutex_lock(&w->lock);
    while (w->n == w->size && !w->err.code) pthread_cond_wait(&w->room, &w->lock);
    int rc = 0;
    if (w->err.code) {
        rc = dl_fail(e, w->err.code, "%s", w->err.msg);
    } else {
        w->item[(w->first + w->n) % w->size] = it;
        w->n++;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    if (rc) item_free(&it);
    return rc;
}

int writer_close(struct writer *w, struct dl_err *e)
{
    if (!w) return 0;
    pthread_mutex_lock(&w->lock);
    w->end = true;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    int rc = w->err.code ? dl_fail(e, w->err.code, "%s", w->err.msg) : 0;
    release(w);
    return rc;
}
