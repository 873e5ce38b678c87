/* Names of tensors: every spelling that files are published in is one name. */
#include "checkpoint_files.h"
#include "files/spellings.h"
#include "run_suite.h"

/* Names in rows: all of a row are the same. */
static const char *const same[][6] = {
    {"net.shared_blocks.0.mlp.w1._flax_linear.weight", "shared_blocks.0.mlp.w1.linear.weight",
     "module.net.shared_blocks.0.mlp.w1._flax_linear.weight",
     "net._orig_mod.shared_blocks.0._checkpoint_wrapped_module.mlp.w1.linear.weight",
     "_fsdp_wrapped_module.net.shared_blocks.0._fsdp_wrapped_module.mlp.w1.linear.weight",
     "_orig_mod.module.shared_blocks.0.mlp.w1._flax_linear.weight"},
    {"net.y_embedder.embedding_table._flax_embedding.weight",
     "net.y_embedder.embedding_table.embedding.weight"},
    {"net.u_final_layer.linear._flax_linear.weight", "u_final_layer.linear.linear.weight"},
    {"net.u_heads.3.attn_scale", "net.u_heads.3.attn_gate", "u_heads.3.attn_gate"},
    {"net.u_heads.3.mlp_scale", "module.u_heads.3.mlp_gate"},
    {"decoder.mid_block.attentions.0.query.weight", "decoder.mid_block.attentions.0.to_q.weight"},
    {"decoder.mid_block.attentions.0.key.bias", "decoder.mid_block.attentions.0.to_k.bias"},
    {"decoder.mid_block.attentions.0.value.bias", "decoder.mid_block.attentions.0.to_v.bias"},
    {"decoder.mid_block.attentions.0.proj_attn.bias",
     "decoder.mid_block.attentions.0.to_out.0.bias"},
    {"1.weight", "decoder.layers.0.weight", "module.decoder.layers.0.weight"},
    {"10.conv.0.bias", "decoder.layers.9.conv.0.bias"},
};

START_TEST(test_rows)
{
    char first[128], other[128];
    imf__spelling(first, same[_i][0]);
    for (int k = 1; k < 6 && same[_i][k]; k++) {
        size_t n = imf__spelling(other, same[_i][k]);
        ck_assert_uint_eq(n, strlen(other));
        ck_assert_str_eq(first, other);
    }
}
END_TEST

/* Parts are whole: what only looks alike stays apart. And no name grows. */
START_TEST(test_apart)
{
    static const char *const names[][2] = {
        {"net.modules.x", "modules.x"},
        {"x.net.y", "x.net.y"},
        {"network.x", "network.x"},
        {"x.attn_scales", "x.attn_scales"},
        {"keys.x", "keys.x"},
        {"decoder.layers.x.y", "decoder.layers.x.y"},
        {"decoder.layers", "decoder.layers"},
        {"", ""},
        {".", ""},
        {"..a", "a"},
        {"a..b", "a..b"},
        {"module", ""},
        {"net", ""},
        {"decoder.layers.99999999999999999999.w", "decoder.layers.99999999999999999999.w"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char got[128];
        ck_assert_uint_le(imf__spelling(got, names[i][0]), strlen(names[i][0]));
        ck_assert_str_eq(got, names[i][1]);
    }
}
END_TEST

/* Looked up in a file: the very name first, then any spelling of it. */
START_TEST(test_lookup)
{
    static const char header[] =
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
        "\"net.x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
        "\"module.y.linear.w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}";
    char bytes[512] = {0};
    uint64_t n = sizeof(header) - 1;
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, header, n);
    struct imf__checkpoint *c;
    struct imf_error err;
    ck_assert_msg(open_bytes(&c, bytes, 8 + n + 12, &err) == IMF_OK, "%s", err.message);
    ck_assert_str_eq(imf__checkpoint_find(c, "x")->name, "x");
    ck_assert_str_eq(imf__checkpoint_find(c, "net.x")->name, "net.x");
    ck_assert_ptr_nonnull(imf__checkpoint_find(c, "module.x"));
    ck_assert_str_eq(imf__checkpoint_find(c, "net.y._flax_linear.w")->name, "module.y.linear.w");
    ck_assert_ptr_null(imf__checkpoint_find(c, "y"));
    ck_assert_ptr_null(imf__checkpoint_find(c, "z"));
    imf__checkpoint_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("spellings");
    TCase *tc = tcase_create("spellings");
    tcase_add_loop_test(tc, test_rows, 0, sizeof(same) / sizeof(same[0]));
    tcase_add_test(tc, test_apart);
    tcase_add_test(tc, test_lookup);
    suite_add_tcase(s, tc);
    return run_suite(s, CK_FORK_GETENV);
}
