/* Objects and options as the command line spells them, and the main loop. */
#include "support.h"

static void test_object_add(void)
{
    GError *error = NULL;
    QContext *ctx = qcontext_object_add("qcontext,id=ctx1,threaded=yes", &error);

    g_assert_no_error(error);
    g_assert_true(qcontext_get_threaded(ctx));
    qcontext_unref(ctx);
    /* It lasts without references. */
    QContext *found = qcontext_find_by_name("ctx1", NULL);
    g_assert_true(found == ctx);
    g_assert_null(qcontext_object_add("{\"qom-type\": \"qcontext\", \"id\": \"ctx1\"}", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_EXISTS);
    g_clear_error(&error);
    QContextClaim *claim = qcontext_claim(found, "disk0", NULL);
    g_assert_false(qcontext_object_del("ctx1", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_BUSY);
    g_assert_cmpstr(error->message, ==, "object 'ctx1' is in use by device 'disk0', can not be deleted");
    g_clear_error(&error);
    qcontext_claim_release(claim);
    g_assert_true(qcontext_object_del("ctx1", NULL));
    g_assert_null(qcontext_claim(found, "disk0", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_clear_error(&error);
    qcontext_unref(found);
    g_assert_false(qcontext_object_del("ctx1", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_false(qcontext_object_del("qcontext-main", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_BUSY);
    g_error_free(error);
}

#define RACE_ROUNDS 1000

static gint adders, added, deleted;

/* Adds one name over and over; each context carries a number that tells whose it is. */
static gpointer add_repeatedly(gpointer first)
{
    for (gint i = 0; i < RACE_ROUNDS; i++) {
        gint64 mark = GPOINTER_TO_INT(first) + i;
        g_autofree char *options = g_strdup_printf("qcontext,id=race,poll-max-ns=%" G_GINT64_FORMAT, mark);
        GError *error = NULL;
        QContext *ctx = qcontext_object_add(options, &error);

        if (ctx) {
            g_autoptr(GVariant) value = qcontext_get_property(ctx, "poll-max-ns", NULL);

            g_assert_cmpint(g_variant_get_int64(value), ==, mark);
            g_atomic_int_inc(&added);
            qcontext_unref(ctx);
        } else {
            g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_EXISTS);
            g_error_free(error);
        }
    }
    g_atomic_int_add(&adders, -1);
    return NULL;
}

static void delete_once(void)
{
    GError *error = NULL;

    if (qcontext_object_del("race", &error)) {
        g_atomic_int_inc(&deleted);
    } else {
        g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
        g_error_free(error);
    }
}

static gpointer delete_repeatedly(gpointer data)
{
    (void)data;
    while (g_atomic_int_get(&adders) > 0) {
        delete_once();
    }
    return NULL;
}

static void test_object_add_races_with_del(void)
{
    GThread *threads[12];

    g_atomic_int_set(&adders, 6);
    for (gint i = 0; i < 6; i++) {
        threads[2 * i] = g_thread_new("add", add_repeatedly, GINT_TO_POINTER(i * RACE_ROUNDS));
        threads[2 * i + 1] = g_thread_new("delete", delete_repeatedly, NULL);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++) {
        g_thread_join(threads[i]);
    }
    delete_once();
    g_assert_cmpint(added, >, 0);
    g_assert_cmpint(added, ==, deleted);
    g_assert_null(qcontext_find_by_name("race", NULL));
}

static void test_object_add_errors(void)
{
    static const struct {
        const char *optarg;
        const char *message;
    } cases[] = {
        { "qcontext", "Parameter 'id' is missing" },
        { "qcontext,id=1x", "Parameter 'id' expects an identifier" },
        { "qcontext,id=x,threaded=perhaps", "Parameter 'threaded' expects 'on' or 'off'" },
        { "qcontext,id=x,bogus=1", "Invalid parameter 'bogus'" },
        { "nosuch,id=x", "Parameter 'qom-type' does not accept value 'nosuch'" },
        { "id=x", "Parameter 'qom-type' is missing" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        GError *error = NULL;

        g_assert_null(qcontext_object_add(cases[i].optarg, &error));
        g_assert_nonnull(error);
        g_assert_true(error->domain == QCONTEXT_ERROR);
        g_assert_cmpstr(error->message, ==, cases[i].message);
        g_error_free(error);
        g_assert_null(qcontext_find_by_name("x", NULL));
    }
}

static void test_properties(void)
{
    GError *error = NULL;
    QContext *ctx = qcontext_new("props", TRUE, NULL);
    g_auto(GStrv) children = qcontext_qom_list("/objects", &error);
    g_auto(GStrv) names = qcontext_qom_list("/objects/props", NULL);
    g_autofree char *tid = g_strdup_printf("%" G_GINT64_FORMAT, qcontext_get_thread_id(ctx));
    g_autofree char *told = qcontext_qom_get("/objects/props.thread_id", NULL);
    g_autofree char *threaded = qcontext_qom_get("/objects/props.threaded", NULL);

    g_assert_true(g_strv_contains((const char *const *)children, "props"));
    g_assert_true(g_strv_contains((const char *const *)names, "thread_id"));
    g_assert_cmpstr(told, ==, tid);
    g_assert_cmpstr(threaded, ==, "true");
    g_assert_null(qcontext_qom_get("/objects/props.nosuch", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_null(qcontext_qom_get("nodot", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_null(qcontext_qom_list("/objects/nosuch", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_DEVICE_NOT_FOUND);
    g_clear_error(&error);
    g_assert_true(qcontext_set_property(ctx, "poll-max-ns", g_variant_new_int64(77), &error));
    g_autoptr(GVariant) value = qcontext_get_property(ctx, "poll-max-ns", NULL);
    g_assert_cmpint(g_variant_get_int64(value), ==, 77);
    g_autoptr(GVariant) id = qcontext_get_property(ctx, "id", NULL);
    g_assert_cmpstr(g_variant_get_string(id, NULL), ==, "props");
    g_autoptr(GVariant) cpus = qcontext_get_property(ctx, "cpu-affinity", NULL);
    g_assert_cmpuint(g_variant_n_children(cpus), >, 0);
    g_autoptr(GVariant) boxed = g_variant_get_child_value(cpus, 0);
    g_autoptr(GVariant) first = g_variant_get_variant(boxed);
    GVariant *pin = g_variant_new_array(G_VARIANT_TYPE_INT64, &first, 1);
    g_assert_true(qcontext_set_property(ctx, "cpu-affinity", pin, &error));
    g_autofree char *pinned = qcontext_qom_get("/objects/props.cpu-affinity", NULL);
    g_autofree char *expected = g_strdup_printf("[%" G_GINT64_FORMAT "]", g_variant_get_int64(first));
    g_assert_cmpstr(pinned, ==, expected);
    g_assert_true(qcontext_set_property(ctx, "cpu-affinity", cpus, &error));
    g_assert_false(qcontext_set_property(ctx, "cpu-affinity", g_variant_new("ai", NULL), &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_false(qcontext_set_property(ctx, "threaded", g_variant_new_boolean(FALSE), &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_false(qcontext_set_property(ctx, "poll-max-ns", g_variant_new_tuple(NULL, 0), &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_null(qcontext_get_property(ctx, "nosuch", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_error_free(error);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_device_opts(void)
{
    GError *error = NULL;
    QContext *ctx = qcontext_new("dev", FALSE, NULL);
    gboolean dataplane = FALSE;
    QContextDeviceOpts *opts =
        qcontext_device_opts_parse("virtio-blk,x-data-plane=on,context=dev,serial=a,,b", &error);

    g_assert_no_error(error);
    g_autofree char *driver = qcontext_device_opts_take(opts, "driver");
    g_autofree char *serial = qcontext_device_opts_take(opts, "serial");
    g_assert_cmpstr(driver, ==, "virtio-blk");
    g_assert_cmpstr(serial, ==, "a,b");
    g_assert_null(qcontext_device_opts_take(opts, "absent"));
    g_assert_true(qcontext_device_opts_take_bool(opts, "x-data-plane", &dataplane, NULL));
    g_assert_true(dataplane);
    g_assert_false(qcontext_device_opts_finish(opts, &error));
    g_assert_cmpstr(error->message, ==, "Invalid parameter 'context'");
    g_clear_error(&error);
    QContext *found = qcontext_device_opts_take_context(opts, "context", &error);
    g_assert_true(found == ctx);
    g_assert_true(qcontext_device_opts_finish(opts, NULL));
    QContext *fallback = qcontext_device_opts_take_context(opts, "context", &error);
    g_assert_true(fallback == qcontext_get_main());
    qcontext_unref(found);
    qcontext_unref(fallback);
    qcontext_device_opts_free(opts);
    opts = qcontext_device_opts_parse("x,context=nosuch,flag=maybe", NULL);
    g_assert_null(qcontext_device_opts_take_context(opts, "context", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_false(qcontext_device_opts_take_bool(opts, "flag", &dataplane, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    qcontext_device_opts_free(opts);
    qcontext_device_opts_free(NULL);
    g_assert_null(qcontext_device_opts_parse("x,id=1y", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ID);
    g_error_free(error);
    qcontext_unref(ctx);
}

static gint locked, unlocks, fills, polls;

static void hook_lock(gpointer data)
{
    (void)data;
    g_assert_cmpint(locked++, ==, 0);
}

static void hook_unlock(gpointer data)
{
    (void)data;
    g_assert_cmpint(--locked, ==, 0);
    unlocks++;
}

static void hook_fill(GArray *fds, gint *timeout_ms, gpointer data)
{
    GPollFD entry = { .fd = *(int *)data, .events = G_IO_IN };

    g_assert_true(locked);
    g_array_append_val(fds, entry);
    if (*timeout_ms < 0 || *timeout_ms > 1000) {
        *timeout_ms = 1000;
    }
    fills++;
}

static void hook_polled(GArray *fds, gpointer data)
{
    (void)data;
    if (g_array_index(fds, GPollFD, fds->len - 1).revents & G_IO_IN) {
        polls++;
    }
}

static void test_main_loop(void)
{
    GError *error = NULL;
    Probe probe = { 0 };
    QContext *main_context = qcontext_get_main();

    g_assert_true(qcontext_main_init(&error));
    while (qcontext_main_poll(FALSE, NULL)) {
    }
    qcontext_notify(main_context);
    g_assert_cmpint(qcontext_main_poll(FALSE, NULL), ==, 1);
    g_assert_cmpint(qcontext_main_poll(FALSE, NULL), ==, 0);
    g_assert_true(qcontext_invoke(main_context, probe_call, &probe, probe_destroy, NULL));
    g_assert_cmpint(qcontext_main_poll(TRUE, NULL), ==, 1);
    g_assert_cmpint(probe.calls, ==, 1);
    locked = 1;
    qcontext_main_set_lock_hooks(hook_lock, hook_unlock, NULL);
    qcontext_main_poll(FALSE, NULL);
    g_assert_cmpint(unlocks, ==, 0);
    int fds[2];
    make_pipe(fds);
    write_byte(fds[1]);
    guint32 id = qcontext_main_add_poll_hook(hook_fill, hook_polled, &fds[0], NULL);
    while (qcontext_main_poll(FALSE, NULL)) {
    }
    polls = fills = 0;
    qcontext_main_poll(TRUE, NULL);
    g_assert_cmpint(unlocks, ==, 1);
    g_assert_cmpint(polls, ==, 1);
    g_assert_cmpint(fills, ==, 1);
    g_assert_true(qcontext_main_remove_poll_hook(id, NULL));
    g_assert_false(qcontext_main_remove_poll_hook(id, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_error_free(error);
    id = qcontext_main_add_poll_hook(NULL, NULL, &probe, probe_destroy);
    probe.destroyed = 0;
    g_assert_true(qcontext_main_remove_poll_hook(id, NULL));
    g_assert_cmpint(probe.destroyed, ==, 1);
    qcontext_main_set_lock_hooks(NULL, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

static void test_null(void)
{
    gboolean value = FALSE;

    assert_misuse("*NULL", g_assert_null(qcontext_object_add(NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_object_del(NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_qom_list(NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_qom_get(NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_get_property(NULL, "id", NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_get_property(qcontext_get_main(), NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_set_property(qcontext_get_main(), "id", NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_device_opts_parse(NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_device_opts_take(NULL, "x")));
    assert_misuse("*NULL", g_assert_false(qcontext_device_opts_take_bool(NULL, "x", &value, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_device_opts_take_context(NULL, "x", NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_device_opts_finish(NULL, NULL)));
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/object/add", test_object_add);
    g_test_add_func("/object/add-races-with-del", test_object_add_races_with_del);
    g_test_add_func("/object/add-errors", test_object_add_errors);
    g_test_add_func("/object/properties", test_properties);
    g_test_add_func("/object/device-opts", test_device_opts);
    g_test_add_func("/object/main-loop", test_main_loop);
    g_test_add_func("/object/null", test_null);
    return g_test_run();
}
