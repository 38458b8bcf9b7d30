/* An fd handler with a destroy notify: the context answers each message of a socket. Exit status 0 if all of it worked. */
#include <qcontext.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    int fd;
    GAsyncQueue *destroyed;
} Server;

/* On the context's thread, while the fd is readable. */
static void answer(gpointer data)
{
    Server *server = data;
    char text[64];
    ssize_t count = read(server->fd, text, sizeof(text));

    for (ssize_t i = 0; i < count; i++) {
        text[i] = g_ascii_toupper(text[i]);
    }
    if (count > 0 && write(server->fd, text, (size_t)count) != count) {
        g_printerr("the answer was cut\n");
    }
}

/* After the last call of the handler has returned. Only now may the data be freed. */
static void destroy(gpointer data)
{
    Server *server = data;

    close(server->fd);
    g_async_queue_push(server->destroyed, server);
}

int main(void)
{
    g_autoptr(GError) error = NULL;
    QContext *ctx = qcontext_new("ctx1", TRUE, &error);
    Server server = { -1, g_async_queue_new() };
    char text[6] = "hello";
    int fds[2];

    if (!ctx || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
        return 1;
    }
    server.fd = fds[1];
    if (!qcontext_add_fd(ctx, server.fd, NULL, answer, NULL, &server, destroy, &error)) {
        g_printerr("%s\n", error->message);
        return 1;
    }
    if (write(fds[0], text, 5) != 5 || read(fds[0], text, 5) != 5) {
        return 1;
    }
    g_print("%s\n", text);

    /* The fd is not polled any more when this returns, but its callback may still run. */
    qcontext_remove_fd(ctx, server.fd);
    g_async_queue_pop(server.destroyed);
    g_async_queue_unref(server.destroyed);
    close(fds[0]);
    qcontext_unref(ctx);
    return strcmp(text, "HELLO") == 0 ? 0 : 1;
}
