/* User data of every kind of registration: its destroy notify runs exactly once, on the right thread, however the registration ends. */
#include "support.h"

typedef struct {
    QContext *ctx;
    QContextAio *aio;
    int fds[2];
    QContextBh *bh;
    QContextTimer *timer;
    GSource *source;
    QContextJob *job;
    QContextNotifier notifier;
    Probe probe;
} Fixture;

typedef struct {
    const char *name;
    gboolean (*add)(Fixture *fixture);
    /* Ends it, or lets go of its handle. */
    void (*remove)(Fixture *fixture);
    /* Lets the callback be called, which ends the registration; NULL where that is no question. */
    void (*trigger)(Fixture *fixture);
    /* A stopped context refuses it. */
    gboolean refused_after_stop;
    /* The notify is GLib's, which runs it where the source is destroyed. */
    gboolean of_glib;
    /* A handle that its AioContext frees if it is left. */
    gboolean of_aio;
} Kind;

/* ---- The kinds ---- */

static void trigger_fd(Fixture *fixture)
{
    write_byte(fixture->fds[1]);
}

static gboolean add_fd(Fixture *f)
{
    return qcontext_add_fd(f->ctx, f->fds[0], NULL, probe_call, NULL, &f->probe, probe_destroy, NULL);
}

static gboolean set_fd(Fixture *f)
{
    return qcontext_set_fd_handler(f->ctx, f->fds[0], NULL, probe_call, NULL, &f->probe, probe_destroy, NULL);
}

static void remove_fd(Fixture *f)
{
    qcontext_remove_fd(f->ctx, f->fds[0]);
}

static gboolean add_aio_fd(Fixture *f)
{
    QContextFdOps ops = { .read = probe_call };

    return qcontext_aio_set_fd_handler(f->aio, f->fds[0], &ops, &f->probe, probe_destroy, NULL);
}

static void remove_aio_fd(Fixture *f)
{
    qcontext_aio_remove_fd(f->aio, f->fds[0]);
}

static gboolean add_poll_cbs(Fixture *f)
{
    QContextFdOps ops = { .read = nothing };

    return qcontext_notifier_init(&f->notifier, FALSE, NULL)
           && qcontext_aio_set_fd_handler(f->aio, qcontext_notifier_get_fd(&f->notifier), &ops, NULL, NULL, NULL)
           && qcontext_aio_set_notifier_poll_cbs(f->aio, &f->notifier, probe_call, NULL, &f->probe, probe_destroy, NULL);
}

static void remove_poll_cbs(Fixture *f)
{
    qcontext_aio_set_notifier_poll_cbs(f->aio, &f->notifier, NULL, NULL, NULL, NULL, NULL);
}

static gboolean add_bh(Fixture *f)
{
    f->bh = qcontext_bh_new(f->aio, "destroy", probe_call, &f->probe, probe_destroy);
    return f->bh != NULL;
}

static void trigger_bh(Fixture *f)
{
    qcontext_bh_schedule(f->bh);
}

static void remove_bh(Fixture *f)
{
    qcontext_bh_delete(f->bh);
    f->bh = NULL;
}

static gboolean add_oneshot(Fixture *f)
{
    return qcontext_bh_oneshot(f->aio, "destroy", probe_call, &f->probe, probe_destroy);
}

static gboolean add_invoke(Fixture *f)
{
    return qcontext_invoke(f->ctx, probe_call, &f->probe, probe_destroy, NULL);
}

static void remove_nothing(Fixture *f)
{
    (void)f;
}

static gboolean add_timer(Fixture *f)
{
    f->timer = qcontext_timer_new(f->aio, QCONTEXT_CLOCK_REALTIME, 1, probe_call, &f->probe, probe_destroy);
    return f->timer != NULL;
}

static void trigger_timer(Fixture *f)
{
    qcontext_timer_mod_ns(f->timer, 0);
}

static void remove_timer(Fixture *f)
{
    qcontext_timer_free(f->timer);
    f->timer = NULL;
}

static gboolean call_source(gpointer probe)
{
    probe_call(probe);
    return G_SOURCE_CONTINUE;
}

static gboolean add_source(Fixture *f)
{
    GSource *source = g_timeout_source_new(1000000);

    g_source_set_callback(source, call_source, &f->probe, probe_destroy);
    if (!qcontext_attach_source(f->ctx, source, "destroy", NULL)) {
        /* What was not taken is the caller's to release. */
        g_source_set_callback(source, call_source, NULL, NULL);
        f->probe.destroyed--;
        g_source_unref(source);
        return FALSE;
    }
    f->source = source;
    return TRUE;
}

static void trigger_source(Fixture *f)
{
    g_source_set_ready_time(f->source, 0);
}

static void remove_source(Fixture *f)
{
    if (f->source) {
        qcontext_destroy_source(f->ctx, f->source);
        g_source_unref(f->source);
        f->source = NULL;
    }
}

static int work(gpointer arg)
{
    (void)arg;
    return 0;
}

static void work_done(gpointer probe, int result)
{
    (void)result;
    probe_call(probe);
}

static gboolean add_job(Fixture *f)
{
    f->job = qcontext_pool_submit(f->aio, work, NULL, work_done, &f->probe, probe_destroy, NULL);
    return f->job != NULL;
}

static void remove_job(Fixture *f)
{
    qcontext_job_cancel(f->job);
    qcontext_job_free(f->job);
    f->job = NULL;
}

static const Kind kinds[] = {
    { "add-fd", add_fd, remove_fd, trigger_fd, TRUE, FALSE, FALSE },
    { "set-fd-handler", set_fd, remove_fd, trigger_fd, TRUE, FALSE, FALSE },
    { "aio-fd", add_aio_fd, remove_aio_fd, trigger_fd, FALSE, FALSE, FALSE },
    { "poll-cbs", add_poll_cbs, remove_poll_cbs, NULL, FALSE, FALSE, FALSE },
    { "bh", add_bh, remove_bh, trigger_bh, FALSE, FALSE, TRUE },
    { "bh-oneshot", add_oneshot, remove_nothing, NULL, FALSE, FALSE, FALSE },
    { "invoke", add_invoke, remove_nothing, NULL, TRUE, FALSE, FALSE },
    { "timer", add_timer, remove_timer, trigger_timer, FALSE, FALSE, TRUE },
    { "source", add_source, remove_source, trigger_source, TRUE, TRUE, FALSE },
    { "job", add_job, remove_job, NULL, FALSE, FALSE, FALSE },
};

/* ---- The ways to end ---- */

typedef enum {
    BY_NOBODY,
    BY_A_CONTEXT,
    BY_GLIB,
} Driver;

static Fixture *begin(gboolean threaded)
{
    Fixture *f = g_new0(Fixture, 1);

    f->ctx = qcontext_new("destroy", threaded, NULL);
    f->aio = qcontext_get_aio(f->ctx, NULL);
    make_pipe(f->fds);
    return f;
}

/* Lets everything go; whatever was registered has ended after this. */
static void end(Fixture *f, const Kind *kind)
{
    kind->remove(f);
    if (f->notifier.initialized) {
        qcontext_aio_remove_fd(f->aio, qcontext_notifier_get_fd(&f->notifier));
        qcontext_notifier_cleanup(&f->notifier);
    }
    g_assert_true(qcontext_stop(f->ctx, NULL));
    qcontext_aio_unref(f->aio);
    qcontext_unref(f->ctx);
    close(f->fds[0]);
    close(f->fds[1]);
}

static void removed_by_another_thread(gconstpointer data)
{
    const Kind *kind = data;
    Fixture *f = begin(TRUE);
    gpointer home = home_of(f->ctx);

    g_assert_true(kind->add(f));
    kind->remove(f);
    wait_for(&f->probe.destroyed, 1);
    g_assert_true(f->probe.destroy_thread == (kind->of_glib ? (gpointer)g_thread_self() : home));
    settle(f->ctx);
    g_assert_true(qcontext_stop(f->ctx, NULL));
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    if (f->notifier.initialized) {
        qcontext_notifier_cleanup(&f->notifier);
    }
    qcontext_aio_unref(f->aio);
    qcontext_unref(f->ctx);
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    close(f->fds[0]);
    close(f->fds[1]);
    g_free(f);
}

/* Nobody deletes it: it goes with the AioContext. */
static void left_to_the_end_of_its_aio(gconstpointer data, Driver driver)
{
    const Kind *kind = data;
    Fixture *f = g_new0(Fixture, 1);
    QContext *ctx = driver == BY_A_CONTEXT ? qcontext_new("end", TRUE, NULL) : NULL;
    GMainContext *gmain = g_main_context_new();
    GSource *source = NULL;

    f->aio = qcontext_aio_new(NULL);
    g_assert_true(kind->add(f));
    kind->trigger(f);
    if (driver == BY_A_CONTEXT) {
        g_assert_true(qcontext_aio_attach(f->aio, ctx, NULL, NULL));
        qcontext_aio_unref(f->aio);
        g_assert_true(qcontext_stop(ctx, NULL));
        qcontext_unref(ctx);
    } else if (driver == BY_GLIB) {
        source = qcontext_aio_get_g_source(f->aio, NULL);
        g_source_attach(source, gmain);
        qcontext_aio_unref(f->aio);
        g_assert_cmpint(f->probe.destroyed, ==, 0);
        g_source_destroy(source);
        g_source_unref(source);
    } else {
        qcontext_aio_unref(f->aio);
    }
    g_main_context_unref(gmain);
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    g_free(f);
}

static void left_to_the_end_of_an_aio_that_nobody_drives(gconstpointer data)
{
    left_to_the_end_of_its_aio(data, BY_NOBODY);
}

static void left_to_the_end_of_an_aio_on_a_context(gconstpointer data)
{
    left_to_the_end_of_its_aio(data, BY_A_CONTEXT);
}

static void left_to_the_end_of_an_aio_under_glib(gconstpointer data)
{
    left_to_the_end_of_its_aio(data, BY_GLIB);
}

/* On the context's own AioContext. Until the context's last reference is gone it may be deleted all the same. */
static void left_to_a_stop(const Kind *kind, gboolean threaded, gboolean delete_it)
{
    Fixture *f = g_new0(Fixture, 1);

    f->ctx = qcontext_new("stop", threaded, NULL);
    f->aio = qcontext_get_aio(f->ctx, NULL);
    g_assert_true(kind->add(f));
    qcontext_aio_unref(f->aio);
    g_assert_true(qcontext_stop(f->ctx, NULL));
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    if (delete_it) {
        kind->trigger(f);
        kind->remove(f);
    }
    qcontext_unref(f->ctx);
    g_assert_cmpint(f->probe.calls, ==, 0);
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    g_free(f);
}

static void left_to_the_stop_of_its_context(gconstpointer data)
{
    for (int i = 0; i < 4; i++) {
        left_to_a_stop(data, i & 1, i >> 1);
    }
}

static const Kind *to_remove;

static void remove_now(gpointer probe)
{
    Fixture *f = (Fixture *)(void *)((char *)probe - G_STRUCT_OFFSET(Fixture, probe));

    to_remove->remove(f);
    /* Not while its callback runs. */
    g_assert_cmpint(f->probe.destroyed, ==, 0);
}

static void removed_inside_its_callback(gconstpointer data)
{
    const Kind *kind = data;
    Fixture *f = begin(TRUE);
    gpointer home = home_of(f->ctx);

    to_remove = kind;
    f->probe.act = remove_now;
    g_assert_true(kind->add(f));
    kind->trigger(f);
    wait_for(&f->probe.destroyed, 1);
    settle(f->ctx);
    g_assert_cmpint(f->probe.calls, ==, 1);
    g_assert_true(f->probe.call_thread == home);
    g_assert_true(f->probe.destroy_thread == home);
    g_assert_true(qcontext_stop(f->ctx, NULL));
    qcontext_aio_unref(f->aio);
    qcontext_unref(f->ctx);
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    close(f->fds[0]);
    close(f->fds[1]);
    g_free(f);
}

static void left_to_a_running_context(gconstpointer data)
{
    const Kind *kind = data;
    Fixture *f = begin(TRUE);
    gpointer home = home_of(f->ctx);

    g_assert_true(kind->add(f));
    g_assert_true(qcontext_stop(f->ctx, NULL));
    end(f, kind);
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    /* No thread runs the context any more, so what its handle frees is freed by the thread that frees the handle. */
    g_assert_true(f->probe.destroy_thread == home || f->probe.destroy_thread == g_thread_self());
    g_free(f);
}

static void left_to_a_context_nobody_runs(gconstpointer data)
{
    const Kind *kind = data;
    Fixture *f = begin(FALSE);

    g_assert_true(kind->add(f));
    end(f, kind);
    g_assert_cmpint(f->probe.calls, ==, 0);
    g_assert_cmpint(f->probe.destroyed, ==, 1);
    g_assert_true(f->probe.destroy_thread == g_thread_self());
    g_free(f);
}

static void refused(gconstpointer data)
{
    const Kind *kind = data;
    Fixture *f = begin(TRUE);

    g_assert_true(qcontext_stop(f->ctx, NULL));
    g_assert_false(kind->add(f));
    end(f, kind);
    g_assert_cmpint(f->probe.calls, ==, 0);
    g_assert_cmpint(f->probe.destroyed, ==, 0);
    g_free(f);
}

static void add_test(const Kind *kind, const char *how, void (*test)(gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/destroy/%s/%s", kind->name, how);

    g_test_add_data_func(path, kind, test);
}

int main(int argc, char **argv)
{
    alarm(TEST_DEADLINE_S);
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        add_test(&kinds[i], "removed-by-another-thread", removed_by_another_thread);
        if (kinds[i].trigger) {
            add_test(&kinds[i], "removed-inside-its-callback", removed_inside_its_callback);
        }
        add_test(&kinds[i], "left-to-a-running-context", left_to_a_running_context);
        add_test(&kinds[i], "left-to-a-context-nobody-runs", left_to_a_context_nobody_runs);
        if (kinds[i].of_aio) {
            add_test(&kinds[i], "left-to-the-end-of-an-aio-that-nobody-drives", left_to_the_end_of_an_aio_that_nobody_drives);
            add_test(&kinds[i], "left-to-the-end-of-an-aio-on-a-context", left_to_the_end_of_an_aio_on_a_context);
            add_test(&kinds[i], "left-to-the-end-of-an-aio-under-glib", left_to_the_end_of_an_aio_under_glib);
            add_test(&kinds[i], "left-to-the-stop-of-its-context", left_to_the_stop_of_its_context);
        }
        if (kinds[i].refused_after_stop) {
            add_test(&kinds[i], "refused", refused);
        }
    }
    return g_test_run();
}
