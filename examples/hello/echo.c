/*
 * Echoes every line on vsock port 7000, in the enclave.
 *
 * When it listens it says so on the console, and tells the launcher: a connection to the host's port 0x80000000 + own
 * CID and one byte, 0xB7, which comes back. The image's metadata promises this ("heartbeat": true).
 */
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 7000
#define HEARTBEAT 0xB7
#define SECONDS_TO_BE_HEARD 600

static struct sockaddr_vm address(unsigned cid, unsigned port)
{
    struct sockaddr_vm where = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    return where;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static unsigned own_cid(void)
{
    unsigned cid = 0;
    int device = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
    if (device < 0 || ioctl(device, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
        die("echo: own CID");
    close(device);
    return cid;
}

/* Nobody may be listening, or no longer: then there is nobody to tell. */
static void tell_launcher(void)
{
    struct sockaddr_vm host = address(VMADDR_CID_HOST, 0x80000000u | own_cid());
    unsigned char beat = HEARTBEAT;
    int connection = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection >= 0 && connect(connection, (struct sockaddr *)&host, sizeof host) == 0 &&
        write(connection, &beat, 1) == 1)
        (void)!read(connection, &beat, 1);
    close(connection);
}

static void echo(int connection)
{
    FILE *in = fdopen(connection, "r"), *out = fdopen(dup(connection), "w");
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    while (in && out && (size = getline(&line, &room, in)) > 0)
        if (fwrite(line, 1, size, out) != (size_t)size || fflush(out))
            break;
    exit(0);
}

int main(void)
{
    struct sockaddr_vm here = address(VMADDR_CID_ANY, PORT);
    int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 64))
        die("echo: listen");
    signal(SIGCHLD, SIG_IGN);
    printf("hello: echoing every line on vsock port %d\n", PORT);
    fflush(stdout);
    if (fork() == 0) {
        alarm(SECONDS_TO_BE_HEARD);
        tell_launcher();
        exit(0);
    }
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection >= 0 && fork() == 0)
            echo(connection);
        close(connection);
    }
}
