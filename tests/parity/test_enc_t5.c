/* The T5 encoder as a part: texts to states, loaded whole or streamed, alone or together, masked or not. That the
 * network computes what transformers does is test_t5.c's. */
#include "tests/parity/taps.h"

#include "pipelines/enc_t5.h"
#include "tests/unit/root.h"

enum { TOKENS = 20, WIDTH = 48, LAYERS = 3, STATE = TOKENS * WIDTH, TEXTS = 3 };

static const char *const texts[TEXTS] = {"a red cat sat", "", "the quick cat and a slow dog sat on a mat all day"};

static void copy_file(const char *from, const char *part, const char *name)
{
    char path[FOLDER_PATH + 80];
    int64_t bytes;
    char *data = folder_read(from, &bytes);
    assert_true(data && bytes > 0);
    snprintf(path, sizeof path, "%s/%s/%s", root, part, name);
    assert_int_equal(folder_write(path, data, bytes), 0);
    free(data);
}

static void write_text(const char *name, const char *text)
{
    char path[FOLDER_PATH + 80];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(folder_write(path, text, (int64_t)strlen(text)), 0);
}

static int make_model(void **state)
{
    static const char *const parts[] = {"text_encoder", "tokenizer"};
    char path[FOLDER_PATH + 40];
    if (root_make(state) < 0) return -1;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", root, parts[i]);
        if (mkdir(path, 0700) < 0) return -1;
    }
    write_text("model_index.json", "{\"_class_name\": \"IFPipeline\", \"text_encoder\": [\"transformers\", "
                                   "\"T5EncoderModel\"], \"tokenizer\": [\"transformers\", \"T5Tokenizer\"]}");
    write_text("tokenizer/tokenizer_config.json", "{\"extra_ids\": 60}");
    copy_file(DLENS_SOURCE_DIR "/tests/parity/data/t5_tiny.json", "text_encoder", "config.json");
    copy_file(DLENS_SOURCE_DIR "/tests/parity/data/t5_tiny.safetensors", "text_encoder", "model.safetensors");
    copy_file(DLENS_SOURCE_DIR "/tests/unit/data/t5_tiny/spiece.model", "tokenizer", "spiece.model");
    return 0;
}

struct part {
    struct machine m;
    struct pipe p;
    struct enc_t5 enc;
};

static struct part *part_open(bool masked, enum pipe_resident resident, int type)
{
    struct part *x = calloc(1, sizeof *x);
    assert_non_null(x);
    x->m = machine_open(false);
    x->p.be = x->m.be, x->p.ctx = x->m.ctx;
    must(model_dir_open(&x->p.dir, root, e));
    must(enc_t5_open(&x->enc, &x->p, "text_encoder", "tokenizer", TOKENS, masked, e));
    assert_int_equal(x->enc.type, DL_F32); /* a small model */
    x->enc.resident = resident, x->enc.type = type;
    return x;
}

static void part_close(struct part *x)
{
    enc_t5_close(&x->enc, &x->p);
    model_dir_close(&x->p.dir);
    machine_close(&x->m);
    free(x);
}

static void encode(struct part *x, struct text_states st[TEXTS])
{
    struct text_states *to[TEXTS];
    for (int i = 0; i < TEXTS; i++) to[i] = &st[i];
    must(enc_t5_encode(&x->enc, &x->p, texts, TEXTS, to, e));
}

static void close_states(struct text_states st[TEXTS])
{
    for (int i = 0; i < TEXTS; i++) {
        struct text_states two[PIPE_ENCODERS] = {st[i]};
        text_states_close(two);
        st[i] = (struct text_states){0};
    }
}

static void same_states(const struct text_states *a, const struct text_states *b)
{
    assert_memory_equal(a->hidden, b->hidden, (LAYERS + 1) * STATE * sizeof(float));
    assert_memory_equal(a->final, b->final, STATE * sizeof(float));
    assert_memory_equal(a->ids, b->ids, TOKENS * sizeof(int32_t));
    assert_memory_equal(a->mask, b->mask, TOKENS);
}

/* What is said of the texts, and that norm and states belong together. */
static void test_states(void **state)
{
    (void)state;
    struct part *x = part_open(true, PIPE_RESIDENT_AUTO, DL_F32);
    struct text_states st[TEXTS];
    struct pipe_encoder f = enc_t5_facts(&x->enc);
    assert_int_equal(f.blocks, LAYERS);
    assert_int_equal(f.width, WIDTH);
    assert_int_equal(f.tokens, TOKENS);
    assert_string_equal(f.folder, "text_encoder");
    encode(x, st);
    assert_false(x->enc.streamed); /* it fits */
    assert_int_equal(enc_t5_weight_bytes(&x->enc), x->enc.sizes.resident_bytes);
    for (int i = 0; i < TEXTS; i++) {
        const struct text_states *s = &st[i];
        int real = 0;
        while (real < TOKENS && s->mask[real]) real++;
        for (int j = real; j < TOKENS; j++) assert_int_equal(s->mask[j] + s->ids[j], 0);
        assert_int_equal(s->ids[real - 1], T5_EOS);
        assert_int_equal(s->eos, real - 1);
        assert_int_equal(s->blocks, LAYERS);
        float out[STATE];
        must(enc_t5_norm(&x->enc, &x->p, s->hidden + LAYERS * STATE, out, e));
        assert_memory_equal(out, s->final, sizeof out);
    }
    assert_int_equal(st[1].eos, 0);
    assert_string_equal(st[0].truncated, "");
    assert_true(strlen(st[2].truncated) > 0);
    assert_int_equal(st[2].eos, TOKENS - 1);
    close_states(st);
    part_close(x);
}

/* One by one, dropped in between, streamed: the same bytes; with the padding attended to, others. */
static void test_ways(void **state)
{
    (void)state;
    for (int type = DL_F32; type <= DL_BF16; type += DL_BF16 - DL_F32) {
        struct part *x = part_open(true, PIPE_RESIDENT_ALL, type);
        struct text_states st[TEXTS], other[TEXTS] = {0}, *one;
        encode(x, st);
        enc_t5_drop(&x->enc, &x->p);
        for (int i = 0; i < TEXTS; i++) {
            one = &other[i];
            must(enc_t5_encode(&x->enc, &x->p, &texts[i], 1, &one, e));
            same_states(one, &st[i]);
        }
        close_states(other);
        part_close(x);

        x = part_open(true, PIPE_RESIDENT_STREAM, type);
        must(enc_t5_plan(&x->enc, &x->p, 1, e));
        assert_true(x->enc.streamed);
        assert_int_equal(enc_t5_weight_bytes(&x->enc), x->enc.sizes.streamed_bytes);
        assert_true(x->enc.sizes.streamed_bytes < x->enc.sizes.resident_bytes);
        for (int again = 0; again < 2; again++) {
            encode(x, other);
            for (int i = 0; i < TEXTS; i++) same_states(&other[i], &st[i]);
            close_states(other);
            if (again == 0) enc_t5_drop(&x->enc, &x->p);
        }
        float out[STATE]; /* while the stream is open */
        must(enc_t5_norm(&x->enc, &x->p, st[0].hidden, out, e));
        part_close(x);

        x = part_open(false, PIPE_RESIDENT_STREAM, type);
        encode(x, other);
        for (int i = 0; i < TOKENS; i++) assert_int_equal(other[1].mask[i], 1);
        assert_memory_equal(other[1].hidden, st[1].hidden, STATE * sizeof(float));
        assert_memory_not_equal(other[1].hidden + STATE, st[1].hidden + STATE, STATE * sizeof(float));
        close_states(other);
        close_states(st);
        part_close(x);
    }
}

/* Announced texts share a pass over streamed weights, whatever the order in which they are asked for. */
static void test_announced(void **state)
{
    (void)state;
    struct part *x = part_open(true, PIPE_RESIDENT_STREAM, DL_F32);
    struct text_states st[TEXTS], other[TEXTS] = {0};
    const int order[TEXTS] = {0, 2, 1}, pass = t5_stages(LAYERS);
    encode(x, st);
    assert_int_equal(dl_stream_stats(x->enc.stream).stages, pass);
    must(enc_t5_announce(&x->enc, texts, TEXTS, e));
    for (int i = 0; i < TEXTS; i++) {
        must(enc_t5_encode_next(&x->enc, &x->p, texts[order[i]], &other[order[i]], e));
        assert_int_equal(dl_stream_stats(x->enc.stream).stages, 2 * pass);
        same_states(&other[order[i]], &st[order[i]]);
    }
    close_states(other);
    /* A text that nobody announced, and one that was forgotten, take a pass each. */
    must(enc_t5_announce(&x->enc, texts, TEXTS, e));
    must(enc_t5_encode_next(&x->enc, &x->p, "another", &other[0], e));
    assert_int_equal(dl_stream_stats(x->enc.stream).stages, 3 * pass);
    must(enc_t5_announce(&x->enc, NULL, 0, e));
    must(enc_t5_encode_next(&x->enc, &x->p, texts[1], &other[1], e));
    assert_int_equal(dl_stream_stats(x->enc.stream).stages, 4 * pass);
    same_states(&other[1], &st[1]);
    close_states(other);
    close_states(st);
    part_close(x);
}

/* A norm alone loads the norm alone. */
static void test_norm_alone(void **state)
{
    (void)state;
    struct part *x = part_open(true, PIPE_RESIDENT_ALL, DL_F32);
    float in[STATE], out[STATE];
    for (int i = 0; i < STATE; i++) in[i] = (float)(i % 7) - 3;
    must(enc_t5_plan(&x->enc, &x->p, 1, e));
    must(enc_t5_norm(&x->enc, &x->p, in, out, e));
    assert_int_equal(x->enc.t5.weights.loaded_bytes, WIDTH * 4);
    part_close(x);
}

static void test_vocabulary(void **state)
{
    (void)state;
    struct machine m = machine_open(false);
    struct pipe p = {.be = m.be, .ctx = m.ctx};
    struct enc_t5 enc = {0};
    struct dl_err e = {0};
    write_text("tokenizer/tokenizer_config.json", "{\"extra_ids\": 100}");
    must(model_dir_open(&p.dir, root, e));
    assert_int_equal(enc_t5_open(&enc, &p, "text_encoder", "tokenizer", TOKENS, true, &e), -1);
    assert_non_null(strstr(e.msg, "157 tokens, the text encoder has embeddings for 120"));
    enc_t5_close(&enc, &p);
    model_dir_close(&p.dir);
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states),     cmocka_unit_test(test_ways),       cmocka_unit_test(test_announced),
        cmocka_unit_test(test_norm_alone), cmocka_unit_test(test_vocabulary),
    };
    return cmocka_run_group_tests(tests, make_model, root_remove);
}
