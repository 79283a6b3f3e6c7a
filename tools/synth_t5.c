/* T5 v1.1 encoders and their tokenizer, for DeepFloyd IF and FLUX. The made-up vocabulary is a sentencepiece unigram
 * model (sentencepiece_model.proto): the three special pieces, some common words, ends of words, and every printing
 * ASCII character, so that any English text is spelled. */
#include "tools/synth.h"

#include "loaders/t5_tokens.h"
#include "pipelines/t5.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXTRA_IDS = 100, PIECE = 48 };

/* Fields of the protobuf, as tags: field << 3 | wire type. */
enum { TAG_PIECE = 0x0a, TAG_TRAINER = 0x12, TAG_NORMALIZER = 0x1a };
enum { PIECE_TEXT = 0x0a, PIECE_SCORE = 0x15, PIECE_TYPE = 0x18, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3 };

static const char space[] = "\xe2\x96\x81"; /* U+2581 begins a word */

/* Words cost less than the letters that spell them; all further ones the same, the most. */
static const float word_score = -6, end_score = -7, letter_score = -9;

static void put_piece(FILE *f, const char *text, float score, int type)
{
    size_t n = strlen(text);
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    fputc(TAG_PIECE, f), fputc((int)(2 + n + 5 + (type ? 2 : 0)), f);
    fputc(PIECE_TEXT, f), fputc((int)n, f), fputs(text, f);
    fputc(PIECE_SCORE, f);
    for (int i = 0; i < 4; i++) fputc((int)(bits >> (8 * i) & 0xff), f);
    if (type) fputc(PIECE_TYPE, f), fputc(type, f);
}

static int put_words(FILE *f)
{
    int n = 0;
    char piece[PIECE];
    for (const char *w = synth_words; *w; n++) {
        int len = (int)strcspn(w, " ");
        snprintf(piece, sizeof piece, "%s%.*s", space, len, w);
        put_piece(f, piece, word_score - 0.01f * (float)n, 0);
        w += len + (w[len] == ' ');
    }
    return n;
}

static int put_ends(FILE *f)
{
    static const char *const end[] = {"s", "ing", "ed", "er", "ly", "th", "he", "in", "an", "re", "on", "at"};
    int n = 0;
    for (; n < (int)(sizeof end / sizeof *end); n++)
        put_piece(f, end[n], strlen(end[n]) > 1 ? end_score : letter_score + 0.5f, 0);
    return n;
}

static int put_letters(FILE *f)
{
    int n = 1;
    put_piece(f, space, letter_score, 0);
    for (int c = '!'; c <= '~'; c++)
        if (c != 's') put_piece(f, (char[]){(char)c, 0}, letter_score, 0), n++;
    return n;
}

/* The settings of T5's own file: unigram, ids of the special pieces, no character map. */
static void put_settings(FILE *f)
{
    static const uint8_t trainer[] = {0x18, 1,          /* model_type: unigram */
                                      0xc0, 0x02, 2,    /* unk_id */
                                      0xc8, 0x02, 0xff, /* bos_id: -1 */
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0xd0, 0x02, 1, /* eos_id */
                                      0xd8, 0x02, 0};                                                      /* pad_id */
    static const uint8_t normalizer[] = {0x0a, 8, 'i',  'd', 'e',  'n', 't', 'i', 't', 'y',                /* name */
                                         0x18, 1, 0x20, 1,   0x28, 1}; /* dummy prefix, extra spaces, escaped ones */
    fputc(TAG_TRAINER, f), fputc(sizeof trainer, f), fwrite(trainer, 1, sizeof trainer, f);
    fputc(TAG_NORMALIZER, f), fputc(sizeof normalizer, f), fwrite(normalizer, 1, sizeof normalizer, f);
}

/* With `want`, unused pieces fill up to so many ids. */
static int write_pieces(const char *folder, int want, struct dl_err *e)
{
    char path[4096], piece[PIECE];
    if (synth_join(path, sizeof path, folder, "spiece.model", e) < 0) return -1;
    FILE *f = fopen(path, "wb");
    if (!f) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno));
    put_piece(f, "<pad>", 0, TYPE_CONTROL), put_piece(f, "</s>", 0, TYPE_CONTROL);
    put_piece(f, "<unk>", 0, TYPE_UNKNOWN);
    int n = 3 + put_words(f);
    n += put_ends(f);
    n += put_letters(f);
    for (; n < want - EXTRA_IDS; n++) {
        snprintf(piece, sizeof piece, "%s<unused %d>", space, n);
        put_piece(f, piece, letter_score, 0);
    }
    put_settings(f);
    bool bad = ferror(f);
    if (fclose(f) || bad) return dl_fail(e, DL_EFAIL, "%s: cannot write: %s", path, strerror(errno));
    return 0;
}

static int write_settings(const char *folder, struct dl_err *e)
{
    char extra[4096] = "";
    for (int i = 0, at = 0; i < EXTRA_IDS; i++)
        at += snprintf(extra + at, sizeof extra - (size_t)at, "%s'<extra_id_%d>'", i ? ", " : "", i);
    if (synth_text(folder, "special_tokens_map.json", e,
                   "{\n  'additional_special_tokens': [%s],\n  'eos_token': '</s>',\n  'pad_token': '<pad>',\n"
                   "  'unk_token': '<unk>'\n}\n",
                   extra) < 0)
        return -1;
    return synth_text(folder, "tokenizer_config.json", e,
                      "{\n  'additional_special_tokens': [%s],\n  'clean_up_tokenization_spaces': true,\n"
                      "  'eos_token': '</s>',\n  'extra_ids': %d,\n  'model_max_length': 512,\n"
                      "  'pad_token': '<pad>',\n  'sp_model_kwargs': {},\n  'tokenizer_class': 'T5Tokenizer',\n"
                      "  'unk_token': '<unk>'\n}\n",
                      extra, EXTRA_IDS);
}

int synth_t5_tokenizer(const struct synth_opts *o, const char *name, int *vocab, struct dl_err *e)
{
    static const char files[] = "spiece.model";
    char folder[4000];
    struct t5_tokens *t;
    if (synth_join(folder, sizeof folder, o->out, name, e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (write_settings(folder, e) < 0) return -1;
    if (o->tokenizer) {
        if (synth_copy(o->tokenizer, folder, files, false, files, e) < 0) return -1;
    } else if (write_pieces(folder, *vocab ? 32100 : 0, e) < 0)
        return -1;
    if (t5_tokens_open(&t, folder, e) < 0) return -1;
    int n = t5_tokens_vocab_size(t);
    t5_tokens_close(t);
    if (*vocab && n > *vocab) return dl_fail(e, DL_EINPUT, "%s: %d tokens, but the model has %d", folder, n, *vocab);
    if (!*vocab) *vocab = (n + 31) / 32 * 32; /* some rows are not used, as in T5's own table */
    return 0;
}

/* ---- the encoder ---- */

/* Attention chooses, though its scores are not scaled; states grow from block to block. */
static struct synth_plan plan(void *user, const struct synth_tensor *t)
{
    const struct synth_gain gains[] = {{"SelfAttention.q", 3 / sqrtf((float)*(const int *)user)},
                                       {"relative_attention_bias", 1.5f},
                                       {"DenseReluDense.wo", 2},
                                       {NULL, 0}};
    return synth_plan_of(t, gains);
}

int synth_t5(const struct synth_opts *o, const char *name, const struct synth_t5 *s, struct dl_err *e)
{
    char folder[4000], config[4096];
    struct t5_config c;
    if (synth_join(folder, sizeof folder, o->out, name, e) < 0 || synth_folder(folder, e) < 0) return -1;
    if (synth_text(folder, "config.json", e,
                   "{\n  'architectures': ['T5EncoderModel'],\n  'd_ff': %d,\n  'd_kv': %d,\n  'd_model': %d,\n"
                   "  'decoder_start_token_id': 0,\n  'dense_act_fn': 'gelu_new',\n  'dropout_rate': 0.1,\n"
                   "  'eos_token_id': 1,\n  'feed_forward_proj': 'gated-gelu',\n  'initializer_factor': 1.0,\n"
                   "  'is_encoder_decoder': true,\n  'is_gated_act': true,\n  'layer_norm_epsilon': 1e-06,\n"
                   "  'model_type': 't5',\n  'num_decoder_layers': %d,\n  'num_heads': %d,\n  'num_layers': %d,\n"
                   "  'output_past': true,\n  'pad_token_id': 0,\n  'relative_attention_max_distance': 128,\n"
                   "  'relative_attention_num_buckets': 32,\n  'tie_word_embeddings': false,\n"
                   "  'torch_dtype': 'float32',\n  'use_cache': true,\n  'vocab_size': %d\n}\n",
                   s->ff, s->head_dim, s->width, s->layers, s->heads, s->layers, s->vocab) < 0)
        return -1;
    if (synth_join(config, sizeof config, folder, "config.json", e) < 0 || t5_config_read(&c, config, e) < 0) return -1;
    struct synth_list l = {0};
    struct bind b;
    struct t5 m = {0};
    if (bind_open_list(&b, synth_collect, &l, e) < 0) return -1;
    int rc = t5_bind(&m, &c, &b, e);
    t5_close(&m);
    if (bind_close(&b, e) < 0) rc = -1;
    if (rc == 0) rc = synth_shards(folder, "model", &l, o, plan, &c.head_dim, e);
    synth_list_close(&l);
    return rc;
}
