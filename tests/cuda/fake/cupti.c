/* A library in the place of CUPTI's: records that a test puts in come out through the callbacks at the next flush, in
 * the largest form that the header knows, and unset fields are noise. */
#include "tests/cuda/fake/cupti.h"

#include <stdlib.h>
#include <string.h>

#include <cupti.h>

struct fake_cupti fake_cupti = {.refused = -1};

static CUpti_BuffersCallbackRequestFunc request;
static CUpti_BuffersCallbackCompleteFunc complete;
static uint8_t *buffer;
static size_t used, capacity;

static size_t size_of(CUpti_ActivityKind kind)
{
    return kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL ? sizeof(CUpti_ActivityKernel9)
           : kind == CUPTI_ACTIVITY_KIND_MEMCPY          ? sizeof(CUpti_ActivityMemcpy5)
                                                         : sizeof(CUpti_ActivityMemset4);
}

static void give_back(void)
{
    if (buffer) complete(NULL, 0, buffer, capacity, used);
    buffer = NULL;
}

void fake_cupti_ran(const char *name, int64_t start_ns, int64_t end_ns)
{
    static const CUpti_ActivityKind kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                               CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_OVERHEAD};
    int kind = !name ? 3 : !strcmp(name, "[memcpy]") ? 1 : !strcmp(name, "[memset]") ? 2 : 0;
    size_t most, bytes = size_of(kinds[kind]);
    if (buffer && used + bytes > capacity) give_back();
    if (!buffer) request(&buffer, &capacity, &most), used = 0;
    CUpti_ActivityKernel9 k;
    CUpti_ActivityMemcpy5 m;
    CUpti_ActivityMemset4 s;
    memset(&k, 0x77, sizeof k), memset(&m, 0x77, sizeof m), memset(&s, 0x77, sizeof s);
    k.kind = m.kind = s.kind = kinds[kind];
    k.start = m.start = s.start = (uint64_t)start_ns, k.end = m.end = s.end = (uint64_t)end_ns;
    k.name = name;
    memcpy(buffer + used, kind == 0 ? (void *)&k : kind == 1 ? (void *)&m : (void *)&s, bytes);
    used += bytes;
}

CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc r, CUpti_BuffersCallbackCompleteFunc c)
{
    request = r, complete = c;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind)
{
    if (fake_cupti.enabled == fake_cupti.refused) return CUPTI_ERROR_INSUFFICIENT_PRIVILEGES;
    (void)kind;
    fake_cupti.enabled++;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityDisable(CUpti_ActivityKind kind)
{
    (void)kind;
    fake_cupti.enabled--;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityFlushAll(uint32_t flag)
{
    (void)flag;
    give_back();
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetNextRecord(uint8_t *from, size_t bytes, CUpti_Activity **record)
{
    uint8_t *next = *record ? (uint8_t *)*record + size_of((*record)->kind) : from;
    if (next >= from + bytes) return CUPTI_ERROR_MAX_LIMIT_REACHED;
    *record = (CUpti_Activity *)(void *)next;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext context, uint32_t stream, size_t *n)
{
    (void)context, (void)stream;
    *n = (size_t)fake_cupti.dropped;
    fake_cupti.dropped = 0;
    return CUPTI_SUCCESS;
}

CUptiResult cuptiGetResultString(CUptiResult result, const char **text)
{
    *text = result == CUPTI_ERROR_INSUFFICIENT_PRIVILEGES ? "not allowed" : "another";
    return CUPTI_SUCCESS;
}
