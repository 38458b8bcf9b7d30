/* The C half: what a C programmer writes against qcontext.h, called by the Rust half. */
#include <gio/gio.h>
#include <qcontext.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What a callback saw; the Rust half has the same structure. */
typedef struct {
    gint calls, destroyed;
    gint64 thread;
    QContext *context;
    GMainContext *thread_default;
} Seen;

static void see(Seen *seen)
{
    QContext *context = qcontext_get_current();

    seen->thread = (gint64)syscall(SYS_gettid);
    seen->context = context;
    seen->thread_default = g_main_context_get_thread_default();
    qcontext_unref(context);
    g_atomic_int_inc(&seen->calls);
}

static void see_it(gpointer seen)
{
    see(seen);
}

static void see_end(gpointer seen)
{
    g_atomic_int_inc(&((Seen *)seen)->destroyed);
}

void half_see(Seen *seen);
void half_see(Seen *seen)
{
    see(seen);
}

/* A source with functions of its own, which is always ready. */
typedef struct {
    GSource source;
    Seen *seen;
    gint left;
} Counter;

static gboolean counter_prepare(GSource *source, gint *timeout)
{
    (void)source;
    *timeout = 0;
    return TRUE;
}

static gboolean counter_dispatch(GSource *source, GSourceFunc func, gpointer data)
{
    Counter *counter = (Counter *)source;

    (void)func, (void)data;
    see(counter->seen);
    return --counter->left > 0;
}

static void counter_finalize(GSource *source)
{
    see_end(((Counter *)source)->seen);
}

gboolean half_attach_source(QContext *context, const char *name, gint times, Seen *seen);
gboolean half_attach_source(QContext *context, const char *name, gint times, Seen *seen)
{
    static GSourceFuncs funcs = { counter_prepare, NULL, counter_dispatch, counter_finalize, NULL, NULL };
    Counter *counter = (Counter *)g_source_new(&funcs, sizeof(Counter));
    guint id;

    counter->seen = seen;
    counter->left = times;
    id = qcontext_attach_source(context, &counter->source, name, NULL);
    g_source_unref(&counter->source);
    return id != 0;
}

gboolean half_schedule_bh(QContext *context, Seen *seen);
gboolean half_schedule_bh(QContext *context, Seen *seen)
{
    QContextAio *aio = qcontext_get_aio(context, NULL);
    gboolean done = qcontext_bh_oneshot(aio, "half", see_it, seen, see_end);

    qcontext_aio_unref(aio);
    return done;
}

/* GIO picks the context of the thread that starts the operation. */
static void loaded(GObject *file, GAsyncResult *result, gpointer seen)
{
    char *contents = NULL;

    if (g_file_load_contents_finish(G_FILE(file), result, &contents, NULL, NULL, NULL) && strlen(contents) > 0) {
        see(seen);
    }
    g_free(contents);
    see_end(seen);
}

void half_load_file(Seen *seen);
void half_load_file(Seen *seen)
{
    GFile *file = g_file_new_for_path("/proc/self/comm");

    g_file_load_contents_async(file, NULL, loaded, seen);
    g_object_unref(file);
}
