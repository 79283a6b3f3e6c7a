#include "kernels/cpu/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

/* A worker looks for the next loop this often before it sleeps; ops follow each other within microseconds, and waking a
 * sleeping thread costs tens of them. */
enum { SPINS = 500 };

struct worker {
    struct pool *pool;
    int index;
    pthread_t id;
};

struct pool {
    int threads, spins;
    pthread_mutex_t lock;
    pthread_cond_t go, done;
    atomic_uint job; /* number of the loop under way; changes under the lock */
    int busy;        /* workers that have not finished it */
    bool quit;
    atomic_llong next; /* first item that nobody has taken */
    int64_t n, grain;
    pool_fn *fn;
    void *arg;
    struct worker worker[]; /* [threads - 1], indices 1 and above */
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(struct pool *p, int worker)
{
    for (;;) {
        int64_t from = atomic_fetch_add_explicit(&p->next, p->grain, memory_order_relaxed);
        if (from >= p->n) return;
        p->fn(p->arg, from, p->n - from < p->grain ? p->n : from + p->grain, worker);
    }
}

static void *run(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        for (int i = 0; i < p->spins && atomic_load_explicit(&p->job, memory_order_relaxed) == seen; i++) relax();
        pthread_mutex_lock(&p->lock);
        while (p->job == seen && !p->quit) pthread_cond_wait(&p->go, &p->lock);
        bool quit = p->quit;
        seen = p->job;
        pthread_mutex_unlock(&p->lock);
        if (quit) return NULL;
        work(p, w->index);
        pthread_mutex_lock(&p->lock);
        if (--p->busy == 0) pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

struct pool *pool_open(int threads)
{
    if (threads < 1) threads = 1;
    struct pool *p = calloc(1, sizeof *p + (size_t)(threads - 1) * sizeof p->worker[0]);
    if (!p) return NULL;
    p->threads = 1;
    p->spins = sysconf(_SC_NPROCESSORS_ONLN) >= threads ? SPINS : 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->go, NULL);
    pthread_cond_init(&p->done, NULL);
    for (; p->threads < threads; p->threads++) {
        struct worker *w = &p->worker[p->threads - 1];
        *w = (struct worker){.pool = p, .index = p->threads};
        if (pthread_create(&w->id, NULL, run, w)) {
            pool_close(p);
            return NULL;
        }
    }
    return p;
}

void pool_close(struct pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->quit = true;
    pthread_cond_broadcast(&p->go);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i < p->threads; i++) pthread_join(p->worker[i - 1].id, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->go);
    pthread_cond_destroy(&p->done);
    free(p);
}

int pool_threads(const struct pool *p) { return p->threads; }

void pool_for(struct pool *p, int64_t n, int64_t grain, pool_fn *fn, void *arg)
{
    if (grain < 1) grain = 1;
    bool alone = p->threads == 1 || n <= grain;
    pthread_mutex_lock(&p->lock);
    p->n = n, p->grain = grain, p->fn = fn, p->arg = arg;
    p->next = 0;
    if (!alone) {
        p->busy = p->threads - 1;
        p->job++;
        pthread_cond_broadcast(&p->go);
    }
    pthread_mutex_unlock(&p->lock);
    work(p, 0);
    if (alone) return;
    pthread_mutex_lock(&p->lock);
    while (p->busy) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
