/* A named context with a thread of its own: functions, a timer and a property. Exit status 0 if all of it worked. */
#include <qcontext.h>

typedef struct {
    gint64 thread_id;
    int ticks;
    QContextTimer timer;
    GAsyncQueue *done;
} State;

static void look(gpointer data)
{
    State *state = data;
    QContext *here = qcontext_get_current();

    state->thread_id = qcontext_get_thread_id(here);
    qcontext_unref(here);
}

static void tick(gpointer data)
{
    State *state = data;

    if (++state->ticks < 3) {
        qcontext_timer_mod(&state->timer, qcontext_clock_get_ns(QCONTEXT_CLOCK_REALTIME) / 1000000 + 1);
    } else {
        g_async_queue_push(state->done, state);
    }
}

int main(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *property = NULL;
    State state = { 0 };
    QContext *ctx = qcontext_object_add("qcontext,id=ctx1,threaded=yes", &error);
    QContextAio *aio;

    if (!ctx) {
        g_printerr("%s\n", error->message);
        return 1;
    }

    /* Runs on the context's thread; the call waits. qcontext_invoke() queues and does not wait. */
    if (!qcontext_invoke_sync(ctx, look, &state, &error)) {
        g_printerr("%s\n", error->message);
        return 1;
    }
    g_print("ctx1 runs on thread %" G_GINT64_FORMAT "\n", state.thread_id);
    property = qcontext_qom_get("/objects/ctx1.thread_id", NULL);
    if (state.thread_id != qcontext_get_thread_id(ctx) || g_ascii_strtoll(property, NULL, 10) != state.thread_id) {
        return 1;
    }

    /* A timer in milliseconds, in storage of our own. */
    state.done = g_async_queue_new();
    aio = qcontext_get_aio(ctx, NULL);
    qcontext_timer_init(&state.timer, aio, QCONTEXT_CLOCK_REALTIME, 1000000, tick, &state);
    qcontext_timer_mod(&state.timer, 0);
    g_async_queue_pop(state.done);
    g_print("%d ticks\n", state.ticks);

    /* After this no callback runs, and `state` may go. */
    qcontext_timer_del_sync(&state.timer, NULL);
    qcontext_aio_unref(aio);
    g_async_queue_unref(state.done);
    if (!qcontext_object_del("ctx1", &error)) {
        g_printerr("%s\n", error->message);
        return 1;
    }
    qcontext_unref(ctx);
    return state.ticks == 3 ? 0 : 1;
}
