/* simt_hopper.cpp: see hopper.h beside this file. Sections of the PTX ISA 9.0 are named where a layout is taken from
 * it.
 */
#include "tests/simt/hopper.h"
#include "tests/simt/simt_priv.h"

#include <map>

int simt_cc = 80;

namespace simt
{

enum { MEMORY = 232448, BASE = 1040, REGISTERS = 65536, BARRIERS = 16, GROUPS = 8 };
enum byte_state : uint8_t { NOTHING, COMING, THERE, PUT, GOT };

struct mbarrier {
    uint32_t count, pending, parity, epoch;
    int64_t bytes;
    bool fenced;
};

struct tma_job {
    bool lazy; /* lands when nothing else can happen */
    uint32_t dst, bar;
    hop_map map;
    int64_t c[4];
};

struct named {
    int count, threads;
    uint32_t turn;
};

/* An accumulator between the issue of its first product and the end of its last. */
struct accumulator {
    float *d;
    std::vector<float> v;
    int jobs;
};

struct product {
    float *d;
    const uint32_t *a;
    uint64_t a_desc, b_desc;
    int n, add, type, group;
    uint32_t when; /* copies issued before */
};

struct wg_thread {
    std::vector<product> jobs;
    std::vector<accumulator> acc;
    int groups;
    bool fenced;
    uint32_t bars; /* named barriers it came to */
};

/* Who got what was put. */
struct got {
    int thread;
    uint32_t bars;
};

static uint8_t memory[BASE + MEMORY];
static byte_state state[BASE + MEMORY];
static uint32_t copied[BASE + MEMORY]; /* the number of the copy that brought a byte, or will */
static std::map<uint32_t, got> gets;
static uint32_t copies;
static uint32_t size; /* of the block's dynamic shared memory, which begins at BASE */
static std::map<uint32_t, mbarrier> mbars;
static std::vector<tma_job> jobs;
static named bars[BARRIERS];
static wg_thread wg[GROUPS * 128];
static size_t executed[GROUPS]; /* products of a warpgroup that are done */
static size_t asked[GROUPS];    /* ... that lie behind a thread's wait, to be done when nothing else can happen */
static int pool, regs[GROUPS * 128];

size_t hopper_begin(size_t dyn)
{
    size = 0;
    if (simt_cc < 90) return dyn;
    if (dyn > MEMORY || blk.threads > GROUPS * 128) {
        fault("%zu bytes of shared memory, %d threads: more than a block may have", dyn, blk.threads);
        return dyn;
    }
    size = (uint32_t)dyn;
    memset(memory, 0xff, sizeof memory);
    memset(state, NOTHING, sizeof state);
    copies = 0;
    mbars.clear(), jobs.clear(), gets.clear();
    for (named &b : bars) b = named();
    for (wg_thread &t : wg) t = wg_thread();
    for (int i = 0; i < GROUPS; i++) executed[i] = asked[i] = 0;
    pool = 0; /* all that it was given is in use */
    for (int &r : regs) r = REGISTERS / blk.threads / 8 * 8;
    return dyn <= 99 << 10 ? dyn : 0; /* for a kernel of the portable tier */
}

static void inside(uint32_t at, uint32_t bytes, uint32_t align, const char *what)
{
    if (at < BASE || (uint64_t)at + bytes > (uint64_t)BASE + size)
        fault("%s: %u bytes at %u are outside shared memory, [%d, %u)", what, bytes, at, BASE, BASE + size);
    if (at % align) fault("%s: address %u is no multiple of %u", what, at, align);
}

/* ---- mbarrier ---- */

static mbarrier *bar_at(uint32_t bar, const char *what)
{
    auto it = mbars.find(bar);
    if (it == mbars.end()) fault("%s at %u, where there is no mbarrier", what, bar);
    mbarrier *b = &it->second;
    if (!b->fenced || b->epoch == blk.epoch)
        fault("%s at mbarrier %u, whose init was not fenced and synchronised", what, bar);
    return b;
}

static void settle(mbarrier *b)
{
    if (b->pending || b->bytes) return;
    b->pending = b->count, b->parity ^= 1;
    poke();
}

static void arrive(uint32_t bar, int64_t bytes)
{
    mbarrier *b = bar_at(bar, "arrival");
    if (!b->pending) fault("more than %u arrivals in a phase of mbarrier %u", b->count, bar);
    b->bytes += bytes, b->pending--;
    settle(b);
}

/* ---- TMA: "Tensor Data Movement", "Swizzling modes": in the 128-byte mode chunk c of row r of 128 bytes goes to c ^ r
 * % 8, rows counted from an address of 1,024 n ---- */

static uint32_t swizzled(uint32_t at) { return at ^ (at / 128 % 8 * 16); }

static uint32_t size_of(int type) { return (uint32_t)dl_type_bytes(type); }

/* Element i of a copy, counted in shared memory's order, in global memory; nullptr: outside of the tensor. */
static const uint8_t *element(const tma_job &j, uint32_t i)
{
    const hop_map &m = j.map;
    const uint8_t *p = static_cast<const uint8_t *>(m.base);
    for (int d = 0; d < 4; d++) {
        int64_t at = j.c[d] + (int64_t)(i % m.box[d]);
        if (at < 0 || (uint64_t)at >= m.dim[d]) return nullptr;
        p += (uint64_t)at * (d ? m.stride[d - 1] : size_of(m.t));
        i /= m.box[d];
    }
    return p;
}

static uint32_t elements(const hop_map &m)
{
    uint32_t n = 1;
    for (int d = 0; d < 4; d++) n *= m.box[d];
    return n;
}

static void land(size_t which)
{
    tma_job j = jobs[which];
    jobs.erase(jobs.begin() + (long)which);
    uint32_t n = elements(j.map);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *from = element(j, i);
        uint32_t bytes = size_of(j.map.t), to = swizzled(j.dst + bytes * i);
        for (uint32_t b = 0; b < bytes; b++) memory[to + b] = from ? from[b] : 0, state[to + b] = THERE;
    }
    mbarrier *b = &mbars[j.bar];
    b->bytes -= size_of(j.map.t) * n;
    settle(b);
    poke();
}

static void execute(int group);

/* Of what may happen: a copy that is not lazy, else one of the lazy ones and the products that threads wait for. */
bool hopper_idle()
{
    static std::vector<int> may; /* static, as below */
    may.clear();
    for (size_t i = 0; i < jobs.size(); i++)
        if (!jobs[i].lazy) may.push_back((int)i);
    if (may.empty()) {
        for (size_t i = 0; i < jobs.size(); i++) may.push_back((int)i);
        for (int i = 0; i < GROUPS; i++)
            if (executed[i] < asked[i]) may.push_back(-1 - i);
    }
    if (may.empty()) return false;
    int which = may[random_next() % may.size()];
    if (which >= 0)
        land((size_t)which);
    else
        execute(-1 - which), poke();
    return true;
}

static void sleep(const char *what)
{
    if (!jobs.empty() && random_next() % 8 == 0) {
        size_t which = random_next() % jobs.size();
        if (!jobs[which].lazy) {
            land(which); /* which may be what the thread waits for */
            return;
        }
    }
    poll_wait(what);
}

/* ---- registers, wgmma ---- */

void registers(int n, bool more)
{
    int *mine = &regs[current_thread()];
    if (n < 24 || n > 256 || n % 8) fault("setmaxnreg: %d", n);
    if (more ? n < *mine : n > *mine) fault("setmaxnreg: from %d to %d is the other direction", *mine, n);
    while (pool < n - *mine) poll_wait("registers");
    pool -= n - *mine, *mine = n;
    poke();
}

/* "Matrix descriptor format", and the canonical layouts with the 128-byte swizzle, in bytes: K-major: row r, k: r % 8 *
 * 128 + r / 8 * stride + 2 k, or k of e4m3; MN-major: 2 (r % 64) + r / 64 * leading + k % 8 * 128 + k / 8 * stride. */
static float operand(uint64_t desc, bool mn, uint32_t r, uint32_t k, const product &p)
{
    uint32_t start = (uint32_t)(desc & 0x3fff) * 16, leading = (uint32_t)(desc >> 16 & 0x3fff) * 16,
             stride = (uint32_t)(desc >> 32 & 0x3fff) * 16;
    if (desc >> 62 != 1 || (desc >> 49 & 7))
        fault("wgmma: descriptor %llx: not the 128-byte swizzle", (unsigned long long)desc);
    uint32_t at = start + (mn ? r % 64 * 2 + r / 64 * leading + k % 8 * 128 + k / 8 * stride
                              : r % 8 * 128 + r / 8 * stride + k * size_of(p.type));
    at = swizzled(at);
    inside(at, size_of(p.type), size_of(p.type), "wgmma");
    if (state[at] != THERE)
        fault("wgmma reads shared byte %u, %s", at,
              state[at] == COMING ? "to which a copy is under way" : "which no copy brought");
    if (copied[at] > p.when) fault("wgmma reads shared byte %u, which was freed and copied to before its end", at);
    if (p.type == DL_E4M3) return dl_e4m3_to(memory[at]);
    uint16_t v;
    memcpy(&v, memory + at, 2);
    return p.type == DL_F16 ? dl_f16_to(v) : dl_bf16_to(v);
}

/* As mma.sync's (simt_warp.cpp). */
static float shortened(float v, int type)
{
    if (type != DL_E4M3) return v;
    return dl_bits_f32(dl_f32_bits(v) >> (23 - simt_e4m3_sum_bits) << (23 - simt_e4m3_sum_bits));
}

static accumulator *acc_of(wg_thread *t, const float *d)
{
    for (accumulator &a : t->acc)
        if (a.d == d) return &a;
    return nullptr;
}

/* "Register fragments for wgmma.m64nNk16": thread t holds rows 16 (t / 32) + t % 32 / 4 and that + 8. */
static int row_of(int t, int second) { return t / 32 * 16 + t % 32 / 4 + 8 * second; }

static void execute(int group)
{
    wg_thread *team = wg + group * 128;
    product p = team->jobs[executed[group]];
    static std::vector<float> a, b; /* static, since a fault leaves without destructors */
    const uint32_t deep = 32 / size_of(p.type);
    a.assign(64 * deep, 0), b.assign(deep * (size_t)p.n, 0);
    for (int t = 0; t < 128; t++) {
        const product &o = team[t].jobs[executed[group]];
        if (o.n != p.n || o.a_desc != p.a_desc || o.b_desc != p.b_desc || !o.add != !p.add || o.type != p.type ||
            !o.a != !p.a)
            fault("divergent wgmma: threads %d and %d of a warpgroup issue different products", group * 128,
                  group * 128 + t);
        if (o.when < p.when) p.when = o.when;
        for (int r = 0; p.a && r < 4; r++)
            for (int h = 0; h < 2; h++) {
                uint16_t v = (uint16_t)(h ? o.a[r] >> 16 : o.a[r]);
                a[(size_t)(row_of(t, r % 2) * 16 + t % 4 * 2 + r / 2 * 8 + h)] =
                    p.type == DL_F16 ? dl_f16_to(v) : dl_bf16_to(v);
            }
    }
    for (uint32_t k = 0; k < deep; k++) {
        for (uint32_t m = 0; !p.a && m < 64; m++) a[m * deep + k] = operand(p.a_desc, false, m, k, p);
        for (uint32_t n = 0; n < (uint32_t)p.n; n++)
            b[n * deep + k] = operand(p.b_desc, p.a != nullptr, n, k, p);
    }
    for (int t = 0; t < 128; t++) {
        accumulator *acc = acc_of(&team[t], team[t].jobs[executed[group]].d);
        for (int i = 0; i < p.n / 2; i++) {
            const float *ar = &a[(size_t)row_of(t, i / 2 % 2) * deep];
            const float *br = &b[(size_t)(i / 4 * 8 + t % 4 * 2 + i % 2) * deep];
            double sum = p.add ? (double)acc->v[(size_t)i] : 0;
            for (uint32_t k = 0; k < deep; k++) sum += (double)ar[k] * (double)br[k];
            acc->v[(size_t)i] = shortened((float)sum, p.type);
        }
        if (--acc->jobs) continue;
        memcpy(acc->d, acc->v.data(), acc->v.size() * sizeof(float));
        *acc = team[t].acc.back();
        team[t].acc.pop_back();
    }
    executed[group]++;
}

void wgmma(float *d, int n, const uint32_t *a, uint64_t a_desc, uint64_t b_desc, int add, int type)
{
    wg_thread *t = &wg[current_thread()];
    if (!t->fenced) fault("wgmma without wgmma.fence after a wait or at the start");
    if (n % 8 || n < 8 || n > 256) fault("wgmma: n = %d", n);
    accumulator *acc = acc_of(t, d);
    if (!acc) {
        t->acc.push_back({d, std::vector<float>(d, d + n / 2), 0});
        acc = &t->acc.back();
        memset(d, 0xff, (size_t)n / 2 * sizeof *d);
    }
    acc->jobs++;
    t->jobs.push_back({d, a, a_desc, b_desc, n, add, type, t->groups, copies});
    poke();
}

void wgmma_wait(int groups)
{
    int group = current_thread() / 128;
    wg_thread *team = wg + group * 128, *t = &wg[current_thread()];
    size_t need = 0;
    while (need < t->jobs.size() && t->jobs[need].group < t->groups - groups) need++;
    for (int i = 0; i < 128; i++)
        while (team[i].jobs.size() < need) poll_wait("products that other threads of the warpgroup issue");
    bool lazy = random_next() % 4 == 0;
    if (lazy && need > asked[group]) asked[group] = need;
    while (executed[group] < need) {
        if (need <= asked[group])
            poll_wait("products");
        else
            execute(group);
    }
    t->fenced = false;
}

void hopper_end()
{
    if (!size) return;
    if (!jobs.empty()) fault("%zu copies by TMA are under way at the end", jobs.size());
    for (int i = 0; i < BARRIERS; i++)
        if (bars[i].count) fault("%d arrivals are left at barrier %d", bars[i].count, i);
    for (int i = 0; i < blk.threads; i++)
        if (!wg[i].acc.empty()) fault("thread %d ended with products under way", i);
    for (const auto &b : mbars)
        if (b.second.pending != b.second.count || b.second.bytes)
            fault("mbarrier %u is within a phase at the end: %u of %u arrivals missing", b.first, b.second.pending,
                  b.second.count);
}

static void come(int id, int threads)
{
    if (id < 1 || id >= BARRIERS || threads % 32) fault("barrier %d of %d threads", id, threads);
    named *b = &bars[id];
    if (b->count && b->threads != threads) fault("barrier %d: %d threads, others say %d", id, threads, b->threads);
    b->threads = threads, wg[current_thread()].bars++;
    if (++b->count < threads) return;
    b->count = 0, b->turn++;
    poke();
}

} // namespace simt

using namespace simt;

uint32_t dl_smem_1024() { return (BASE + 1023u) & ~1023u; }

void dl_put(uint32_t at, float v)
{
    inside(at, 4, 4, "put");
    if (state[at] == PUT) fault("put over shared byte %u, which was not got", at);
    if (gets.count(at) && gets[at].thread != current_thread() && wg[gets[at].thread].bars == gets[at].bars)
        fault("put over shared byte %u, which thread %d got and came to no barrier since", at, gets[at].thread);
    if (mbars.count(at & ~7u) || state[at] == COMING || state[at] == THERE) fault("put to %u, where copies lie", at);
    memset(state + at, PUT, 4);
    memcpy(memory + at, &v, 4);
}

float dl_get(uint32_t at)
{
    float v;
    inside(at, 4, 4, "get");
    if (state[at] != PUT) fault("get of shared byte %u, where nothing new was put", at);
    memset(state + at, GOT, 4);
    gets[at] = {current_thread(), wg[current_thread()].bars};
    memcpy(&v, memory + at, 4);
    return v;
}

void dl_mbar_init(uint32_t bar, uint32_t count)
{
    inside(bar, 8, 8, "mbarrier.init");
    if (mbars.count(bar) || state[bar] != NOTHING) fault("a second mbarrier at %u, or data lie there", bar);
    mbars[bar] = {count, count, 0, blk.epoch, 0, false};
}

void dl_mbar_init_fence()
{
    for (auto &b : mbars) b.second.fenced = true;
}

void dl_mbar_arrive(uint32_t bar) { arrive(bar, 0); }
void dl_mbar_expect(uint32_t bar, uint32_t bytes) { arrive(bar, bytes); }

void dl_mbar_wait(uint32_t bar, uint32_t parity)
{
    mbarrier *b = bar_at(bar, "wait");
    while (b->parity == parity) sleep("an mbarrier's phase");
}

void dl_tma_load(uint32_t dst, const dl_tensor_map *map, uint32_t bar, int c0, int c1, int c2, int c3)
{
    const hop_map &m = map->m;
    tma_job j = {random_next() % 4 == 0, dst, bar, m, {c0, c1, c2, c3}};
    uint32_t each = size_of(m.t), bytes = elements(m) * each;
    bar_at(bar, "a copy's bytes");
    if (m.box[0] * each != 128) fault("TMA: rows of %u bytes, not the swizzle's 128", m.box[0] * each);
    inside(dst, bytes, 1024, "TMA");
    for (uint32_t i = 0; i < bytes / each; i++) {
        const uint8_t *p = element(j, i);
        if (p) global_access(p, each, each, READ);
    }
    copies++;
    for (uint32_t i = 0; i < bytes; i++) {
        if (state[dst + i] == COMING) fault("TMA to shared byte %u, to which another copy is under way", dst + i);
        if (mbars.count(dst + i) || state[dst + i] >= PUT) fault("TMA over what lies at %u", dst + i);
        state[dst + i] = COMING, memory[dst + i] = 0xff, copied[dst + i] = copies;
    }
    jobs.push_back(j);
}

void dl_bar_sync(int id, int threads)
{
    uint32_t turn = bars[id & 15].turn;
    come(id, threads);
    while (bars[id].turn == turn) sleep("a named barrier");
}

void dl_bar_arrive(int id, int threads) { come(id, threads); }
void dl_wgmma_fence() { wg[current_thread()].fenced = true; }
void dl_wgmma_commit() { wg[current_thread()].groups++; }
