/* Contexts: life, names, who stops them, functions run on them. */
#include "support.h"

static void test_life(void)
{
    GError *error = NULL;
    QContext *ctx = new_threaded("life");
    QContext *again = qcontext_find_by_name("life", NULL);

    g_assert_true(again == ctx);
    g_assert_cmpstr(qcontext_get_id(ctx), ==, "life");
    g_assert_true(qcontext_get_threaded(ctx));
    g_assert_cmpint(qcontext_get_thread_id(ctx), >, 0);
    g_assert_nonnull(qcontext_get_context(ctx));
    g_assert_true(qcontext_ref(ctx) == ctx);
    qcontext_unref(ctx);
    qcontext_unref(again);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_cmpint(qcontext_get_thread_id(ctx), ==, -1);
    g_assert_null(qcontext_get_aio(ctx, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_clear_error(&error);
    qcontext_unref(ctx);
    g_assert_null(qcontext_find_by_name("life", &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_error_free(error);
}

static void test_new_errors(void)
{
    GError *error = NULL;
    QContext *ctx = qcontext_new("taken", FALSE, NULL);

    g_assert_null(qcontext_new("taken", FALSE, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_EXISTS);
    g_clear_error(&error);
    g_assert_null(qcontext_new("1bad", FALSE, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ID);
    g_clear_error(&error);
    g_assert_null(qcontext_new("bad\xff", FALSE, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_null(qcontext_new("qcontext-main", FALSE, NULL));
    qcontext_unref(ctx);
}

static void test_long_and_odd_names(void)
{
    /* The prototype's lookup overran a buffer of 256 bytes and set no error. */
    g_autofree char *name = g_strnfill(5000, 'n');
    GError *error = NULL;

    g_assert_null(qcontext_find_by_name(name, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
    g_clear_error(&error);
    QContext *ctx = qcontext_new(name, FALSE, NULL);
    QContext *found = qcontext_find_by_name(name, &error);
    g_assert_no_error(error);
    g_assert_true(found == ctx);
    qcontext_unref(found);
    qcontext_unref(ctx);
}

static void test_anonymous(void)
{
    QContext *ctx = qcontext_new(NULL, TRUE, NULL);
    g_auto(GStrv) names = qcontext_list_names();

    g_assert_true(g_str_has_prefix(qcontext_get_id(ctx), "#ctx"));
    g_assert_false(g_strv_contains((const char *const *)names, qcontext_get_id(ctx)));
    g_assert_null(qcontext_find_by_name(qcontext_get_id(ctx), NULL));
    g_assert_nonnull(home_of(ctx));
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_list(void)
{
    QContext *ctx = qcontext_new("listed", FALSE, NULL);
    g_auto(GStrv) names = qcontext_list_names();

    g_assert_cmpstr(names[0], ==, "qcontext-main");
    g_assert_true(g_strv_contains((const char *const *)names, "listed"));
    qcontext_unref(ctx);
}

static void test_main_context(void)
{
    GError *error = NULL;
    QContext *main_context = qcontext_get_main();

    g_assert_cmpstr(qcontext_get_id(main_context), ==, "qcontext-main");
    g_assert_true(qcontext_get_context(main_context) == g_main_context_default());
    g_assert_true(qcontext_get_main() == main_context);
    g_assert_cmpint(qcontext_get_thread_id(main_context), ==, getpid());
    g_assert_false(qcontext_stop(main_context, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_BUSY);
    g_error_free(error);
}

static void test_foreign_main_context(void)
{
    GError *error = NULL;
    GMainContext *gmain = g_main_context_new();
    Probe probe = { 0 };
    QContext *ctx = qcontext_new_for_main_context("foreign", gmain, &error);

    g_assert_no_error(error);
    g_assert_true(qcontext_get_context(ctx) == gmain);
    g_assert_false(qcontext_get_threaded(ctx));
    g_assert_true(qcontext_invoke(ctx, probe_call, &probe, probe_destroy, NULL));
    while (!probe.destroyed) {
        g_main_context_iteration(gmain, TRUE);
    }
    g_assert_cmpint(probe.calls, ==, 1);
    qcontext_unref(ctx);
    g_assert_null(qcontext_new_for_main_context(NULL, g_main_context_default(), &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_BUSY);
    g_error_free(error);
    g_main_context_unref(gmain);
}

static void store_current(gpointer place)
{
    *(QContext **)place = qcontext_get_current();
}

static void store_default(gpointer place)
{
    *(GMainContext **)place = g_main_context_get_thread_default();
}

static void test_current(void)
{
    QContext *ctx = new_threaded("current"), *seen = NULL;
    GMainContext *gmain = NULL;

    g_assert_true(qcontext_invoke_sync(ctx, store_current, &seen, NULL));
    g_assert_true(seen == ctx);
    qcontext_unref(seen);
    g_assert_false(qcontext_is_current(ctx));
    g_assert_null(qcontext_get_current());
    /* GLib code in a callback lands on the right context. */
    g_assert_true(qcontext_invoke_sync(ctx, store_default, &gmain, NULL));
    g_assert_true(gmain == qcontext_get_context(ctx));
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void stop_self(gpointer data)
{
    QContext *ctx = ((Probe *)data)->act_data;
    GError *error = NULL;

    g_assert_false(qcontext_stop(ctx, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_clear_error(&error);
    g_assert_false(qcontext_object_del(qcontext_get_id(ctx), &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_error_free(error);
}

static void test_stop_from_own_thread(void)
{
    QContext *ctx = new_threaded("stop-self");
    Probe probe = { .act = stop_self, .act_data = ctx };

    g_assert_true(qcontext_invoke_sync(ctx, probe_call, &probe, NULL));
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void unref_self(gpointer data)
{
    qcontext_unref(((Probe *)data)->act_data);
}

static void test_last_unref_from_own_thread(void)
{
    QContext *ctx = new_threaded("unref-self");
    Probe probe = { .act = unref_self, .act_data = ctx };

    g_assert_true(qcontext_invoke(ctx, probe_call, &probe, probe_destroy, NULL));
    wait_for(&probe.destroyed, 1);
    g_assert_cmpint(probe.calls, ==, 1);
    while ((ctx = qcontext_find_by_name("unref-self", NULL))) {
        qcontext_unref(ctx);
    }
}

static void test_invoke(void)
{
    QContext *ctx = new_threaded("invoke");
    gpointer home = home_of(ctx);
    Probe probes[3] = { { 0 } };

    for (int i = 0; i < 3; i++) {
        g_assert_true(qcontext_invoke(ctx, probe_call, &probes[i], probe_destroy, NULL));
    }
    settle(ctx);
    for (int i = 0; i < 3; i++) {
        g_assert_cmpint(probes[i].calls, ==, 1);
        g_assert_cmpint(probes[i].destroyed, ==, 1);
        g_assert_true(probes[i].call_thread == home && probes[i].destroy_thread == home);
    }
    g_assert_true(qcontext_stop(ctx, NULL));
    Probe late = { 0 };
    GError *error = NULL;
    g_assert_false(qcontext_invoke(ctx, probe_call, &late, probe_destroy, &error));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_CLOSED);
    g_assert_cmpint(late.destroyed, ==, 0);
    g_error_free(error);
    qcontext_unref(ctx);
}

typedef struct {
    QContext *other, *self;
    GError *error;
} Ring;

static void wait_back(gpointer data)
{
    Ring *ring = data;

    g_assert_false(qcontext_invoke_sync(ring->self, nothing, NULL, &ring->error));
}

static void wait_for_other(gpointer data)
{
    Ring *ring = data;

    g_assert_true(qcontext_invoke_sync(ring->other, wait_back, ring, NULL));
}

static void test_invoke_sync_ring(void)
{
    QContext *a = new_threaded("ring-a"), *b = new_threaded("ring-b");
    Ring ring = { .other = b, .self = a };

    g_assert_true(qcontext_invoke_sync(a, wait_for_other, &ring, NULL));
    g_assert_error(ring.error, QCONTEXT_ERROR, QCONTEXT_ERROR_WOULD_DEADLOCK);
    g_error_free(ring.error);
    g_assert_true(qcontext_stop(a, NULL) && qcontext_stop(b, NULL));
    qcontext_unref(a);
    qcontext_unref(b);
}

static void test_stop_drops_pending(void)
{
    QContext *ctx = qcontext_new("pending", FALSE, NULL);
    Probe probe = { 0 };

    g_assert_true(qcontext_invoke(ctx, probe_call, &probe, probe_destroy, NULL));
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_cmpint(probe.calls, ==, 0);
    g_assert_cmpint(probe.destroyed, ==, 1);
    qcontext_unref(ctx);
}

static void test_version(void)
{
    g_assert_cmpuint(qcontext_version(), ==, QCONTEXT_VERSION);
    g_assert_cmpuint(QCONTEXT_VERSION_ENCODE(1, 2, 3), ==, 1002003);
}

static void test_null(void)
{
    GError *error = NULL;

    qcontext_unref(NULL);
    qcontext_claim_release(NULL);
    assert_misuse("qcontext_ref: the context is NULL", g_assert_null(qcontext_ref(NULL)));
    assert_misuse("qcontext_get_id: *NULL", g_assert_null(qcontext_get_id(NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_get_threaded(NULL)));
    assert_misuse("*NULL", g_assert_cmpint(qcontext_get_thread_id(NULL), ==, -1));
    assert_misuse("*NULL", g_assert_null(qcontext_get_context(NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_get_aio(NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_get_iohandler_aio(NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_is_current(NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_stop(NULL, NULL)));
    assert_misuse("*NULL", qcontext_notify(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_iterate(NULL, TRUE, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_acquire(NULL)));
    assert_misuse("*NULL", qcontext_release(NULL));
    assert_misuse("*NULL", g_assert_false(qcontext_prepare(NULL, NULL)));
    assert_misuse("*NULL", g_assert_cmpint(qcontext_append_query(NULL, 0, NULL, NULL), ==, 0));
    assert_misuse("*NULL", g_assert_false(qcontext_check(NULL, 0, NULL, 0)));
    assert_misuse("*NULL", qcontext_dispatch(NULL));
    assert_misuse("*NULL", g_assert_cmpuint(qcontext_attach_source(NULL, NULL, NULL, NULL), ==, 0));
    assert_misuse("*NULL", g_assert_null(qcontext_find_source_by_name(NULL, "x")));
    assert_misuse("*NULL", g_assert_null(qcontext_find_source_by_name(qcontext_get_main(), NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_destroy_source(qcontext_get_main(), NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_invoke(NULL, nothing, NULL, NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_invoke(qcontext_get_main(), NULL, NULL, NULL, NULL)));
    assert_misuse("*NULL", g_assert_false(qcontext_invoke_sync(NULL, nothing, NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_new_for_main_context("x", NULL, NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_claim(NULL, "d", NULL)));
    assert_misuse("*NULL", g_assert_null(qcontext_find_by_name(NULL, &error)));
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_INVALID_ARGUMENT);
    g_error_free(error);
}

typedef struct {
    gint done, found;
} Racy;

static gpointer create_and_delete(gpointer data)
{
    Racy *racy = data;

    /* Until it was found once: on a busy machine that may take a while. */
    for (int i = 0; i < 100 || !g_atomic_int_get(&racy->found); i++) {
        QContext *ctx = qcontext_object_add("qcontext,id=racy,threaded=on", NULL);

        g_assert_nonnull(ctx);
        /* Valgrind runs one thread at a time, for long: the other one looks now. */
        g_thread_yield();
        g_assert_true(qcontext_object_del("racy", NULL));
        qcontext_unref(ctx);
    }
    g_atomic_int_set(&racy->done, 1);
    return NULL;
}

static void test_find_against_delete(void)
{
    Racy racy = { 0 };
    GThread *thread = g_thread_new("creator", create_and_delete, &racy);

    while (!g_atomic_int_get(&racy.done)) {
        GError *error = NULL;
        QContext *ctx = qcontext_find_by_name("racy", &error);

        if (ctx) {
            /* Whatever has become of it, the reference is good. */
            g_assert_cmpstr(qcontext_get_id(ctx), ==, "racy");
            qcontext_notify(ctx);
            qcontext_invoke(ctx, nothing, NULL, NULL, NULL);
            qcontext_unref(ctx);
            g_atomic_int_inc(&racy.found);
        } else {
            g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_NOT_FOUND);
            g_error_free(error);
        }
    }
    g_thread_join(thread);
    g_assert_cmpint(racy.found, >, 0);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/context/life", test_life);
    g_test_add_func("/context/new-errors", test_new_errors);
    g_test_add_func("/context/long-and-odd-names", test_long_and_odd_names);
    g_test_add_func("/context/anonymous", test_anonymous);
    g_test_add_func("/context/list", test_list);
    g_test_add_func("/context/main", test_main_context);
    g_test_add_func("/context/foreign-main-context", test_foreign_main_context);
    g_test_add_func("/context/current", test_current);
    g_test_add_func("/context/stop-from-own-thread", test_stop_from_own_thread);
    g_test_add_func("/context/last-unref-from-own-thread", test_last_unref_from_own_thread);
    g_test_add_func("/context/invoke", test_invoke);
    g_test_add_func("/context/invoke-sync-ring", test_invoke_sync_ring);
    g_test_add_func("/context/stop-drops-pending", test_stop_drops_pending);
    g_test_add_func("/context/version", test_version);
    g_test_add_func("/context/null", test_null);
    g_test_add_func("/context/find-against-delete", test_find_against_delete);
    return g_test_run();
}
