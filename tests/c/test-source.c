/* GSources of a context: found by name, and destroyed with it. */
#include "support.h"

static gboolean count_and_go_on(gpointer data)
{
    probe_call(data);
    return G_SOURCE_CONTINUE;
}

static gboolean count_and_end(gpointer data)
{
    probe_call(data);
    return G_SOURCE_REMOVE;
}

static void test_sources(void)
{
    QContext *ctx = new_threaded("sources");
    GError *error = NULL;
    Probe probe = { 0 };
    GSource *source = g_timeout_source_new(1), *other = g_idle_source_new();

    g_source_set_callback(source, count_and_go_on, &probe, probe_destroy);
    g_assert_cmpuint(qcontext_attach_source(ctx, source, "tick", &error), !=, 0);
    g_assert_no_error(error);
    GSource *found = qcontext_find_source_by_name(ctx, "tick");
    g_assert_true(found == source);
    g_source_unref(found);
    g_assert_null(qcontext_find_source_by_name(ctx, "tock"));
    g_assert_cmpuint(qcontext_attach_source(ctx, other, "tick", &error), ==, 0);
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_EXISTS);
    g_clear_error(&error);
    g_assert_cmpuint(qcontext_attach_source(ctx, source, "again", &error), ==, 0);
    g_assert_error(error, QCONTEXT_ERROR, QCONTEXT_ERROR_BUSY);
    g_clear_error(&error);
    wait_for(&probe.calls, 3);
    g_assert_true(probe.call_thread == home_of(ctx));
    g_assert_true(qcontext_destroy_source(ctx, source));
    g_assert_false(qcontext_destroy_source(ctx, source));
    g_assert_null(qcontext_find_source_by_name(ctx, "tick"));
    settle(ctx);
    g_assert_cmpint(probe.destroyed, ==, 1);
    g_source_unref(source);
    g_source_unref(other);
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_name_of_ended_source_is_free(void)
{
    QContext *ctx = new_threaded("ended");

    for (int i = 0; i < 3; i++) {
        Probe probe = { 0 };
        GSource *source = g_idle_source_new();

        g_source_set_callback(source, count_and_end, &probe, probe_destroy);
        g_assert_cmpuint(qcontext_attach_source(ctx, source, "once", NULL), !=, 0);
        wait_for(&probe.destroyed, 1);
        g_assert_null(qcontext_find_source_by_name(ctx, "once"));
        g_source_unref(source);
    }
    g_assert_true(qcontext_stop(ctx, NULL));
    qcontext_unref(ctx);
}

static void test_stop_destroys_sources(void)
{
    QContext *ctx = new_threaded("stop-sources");
    Probe probe = { 0 };
    GSource *source = g_timeout_source_new(1000000);
    gpointer home = home_of(ctx);

    g_source_set_callback(source, count_and_go_on, &probe, probe_destroy);
    g_assert_cmpuint(qcontext_attach_source(ctx, source, NULL, NULL), !=, 0);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_true(g_source_is_destroyed(source));
    g_assert_cmpint(probe.destroyed, ==, 1);
    g_assert_true(probe.destroy_thread == home);
    g_source_unref(source);
    qcontext_unref(ctx);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/context/sources", test_sources);
    g_test_add_func("/context/name-of-ended-source-is-free", test_name_of_ended_source_is_free);
    g_test_add_func("/context/stop-destroys-sources", test_stop_destroys_sources);
    return g_test_run();
}
