/* A board on a serial port: runs a firmware for the ATmega328P in libsimavr, with its UART behind a
 * pseudo-terminal, in real time.
 *
 *     board FIRMWARE.elf LINK        LINK becomes the port's path
 *     board FIRMWARE.elf             no port: what it sends goes to stdout, as fast as can be, until it
 *                                    sleeps for ever, or says nothing for ten of its seconds
 *
 * Orders on stdin, one a line:       what it tells on stdout:
 *     unplug   in mid-line               sent LINE      its last byte is in the port, which loses nothing
 *     plug                               lost LINE      a byte of it went nowhere
 *     reset    in mid-line               unplugged, plugged, reset, stopped
 *     press    reset at once
 *     stop     between two lines            wired
 *     wire     from now on each opening of the port resets it (DTR), into a bootloader that
 *              swallows what comes, as an Uno's does
 *
 * It has a power supply of its own, and goes on while it is unplugged. What it measures at A0 and A1
 * rises by one step with each line. The end of stdin ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <simavr/avr_adc.h>
#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_elf.h>

enum { CLOCK_HZ = 16000000, SLICE_CYCLES = CLOCK_HZ / 1000, LINE_MAX_BYTES = 4096, SUPPLY_MV = 5000 };
/* Of a line, before it may be cut: else the boot's line end would make a line of the rest. */
enum { MID_LINE_BYTES = 8 };
static const avr_cycle_count_t QUIET_CYCLES = 10ull * CLOCK_HZ;

static avr_t *board;
static avr_irq_t *uart_input;
static int uart_takes = 1;
static avr_cycle_count_t last_byte_at;
/* The port: its two ends, or -1. The far end is held so that it can be asked what nobody has read. */
static int master = -1, far_end = -1;
static const char *link_path;
static char line[LINE_MAX_BYTES];
static size_t length;
static int torn;
static enum { NOTHING, UNPLUG, RESET, STOP } ordered;
static int stopped;
/* Tells when somebody opens the port, or -1: nobody asks. */
static int openings = -1;
enum { BOOTLOADER_MS = 1500 };
static int bootloader_ms;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void tell(const char *what) {
    puts(what);
    fflush(stdout);
}

/* The next step of ten bits, as this converter counts them: 1023 to the supply. Rounded up, or
 * some of the steps would fall below theirs. */
static void measure(void) {
    static uint32_t step;
    uint32_t millivolts = (step * SUPPLY_MV + 1022) / 1023;
    for (int pin = 0; pin < 2; pin++) {
        avr_raise_irq(avr_io_getirq(board, AVR_IOCTL_ADC_GETIRQ, ADC_IRQ_ADC0 + pin), millivolts);
    }
    step = (step + 1) % 1024;
}

/* Nothing is held back: as on a USB port, what finds no room is gone. */
static void handle_output(struct avr_irq_t *irq, uint32_t value, void *unused) {
    (void)irq, (void)unused;
    char byte = (char)value;
    last_byte_at = board->cycle;
    if (!link_path) {
        putchar(byte);
        return;
    }
    int is_in_port = master >= 0 && write(master, &byte, 1) == 1;
    torn |= !is_in_port;
    if (byte != '\n') {
        if (length < LINE_MAX_BYTES) line[length++] = byte;
        return;
    }
    if (length > 0) {
        printf("%s %.*s\n", torn ? "lost" : "sent", (int)length, line);
        fflush(stdout);
    }
    length = 0;
    /* Without its end this line runs into the next one. */
    torn = !is_in_port;
    measure();
}

static void handle_xon(struct avr_irq_t *irq, uint32_t value, void *unused) {
    (void)irq, (void)value, (void)unused;
    uart_takes = 1;
}

static void handle_xoff(struct avr_irq_t *irq, uint32_t value, void *unused) {
    (void)irq, (void)value, (void)unused;
    uart_takes = 0;
}

/* simavr's own would write to stdout. */
static void log_to_stderr(avr_t *avr, const int level, const char *format, va_list values) {
    (void)avr;
    if (level <= LOG_ERROR) vfprintf(stderr, format, values);
}

static void power_up(const char *path) {
    avr_global_logger_set(log_to_stderr);
    static elf_firmware_t firmware;
    if (elf_read_firmware(path, &firmware) != 0) {
        fprintf(stderr, "%s is no firmware\n", path);
        exit(1);
    }
    board = avr_make_mcu_by_name("atmega328p");
    if (!board) fail("atmega328p");
    avr_init(board);
    board->frequency = CLOCK_HZ;
    board->vcc = board->avcc = board->aref = SUPPLY_MV;
    avr_load_firmware(board, &firmware);
    uint32_t flags = 0;
    avr_ioctl(board, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
    avr_irq_register_notify(avr_io_getirq(board, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUTPUT), handle_output, NULL);
    avr_irq_register_notify(avr_io_getirq(board, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUT_XON), handle_xon, NULL);
    avr_irq_register_notify(avr_io_getirq(board, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_OUT_XOFF), handle_xoff, NULL);
    uart_input = avr_io_getirq(board, AVR_IOCTL_UART_GETIRQ('0'), UART_IRQ_INPUT);
}

static void watch_openings(void) {
    if (openings >= 0 && inotify_add_watch(openings, ptsname(master), IN_OPEN) < 0) fail("inotify");
}

static void plug(void) {
    master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) fail("pseudo-terminal");
    far_end = open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct termios raw;
    if (far_end < 0 || tcgetattr(far_end, &raw) != 0) fail("pseudo-terminal");
    cfmakeraw(&raw);
    tcsetattr(far_end, TCSANOW, &raw);
    watch_openings();
    unlink(link_path);
    if (symlink(ptsname(master), link_path) != 0) fail(link_path);
    /* A new cable: nothing of an old line is in it. In mid-line the line is torn all the same. */
    torn = length > 0;
    tell("plugged");
}

static void unplug(void) {
    unlink(link_path);
    close(far_end);
    close(master);
    master = far_end = -1;
    torn = 1;
    tell("unplugged");
}

/* Whether the reader has taken all: what the port holds when it hangs up is gone. poll(2) waits
 * for the bytes that the kernel still carries from one end to the other; FIONREAD does not. */
static int is_drained(void) {
    struct pollfd unread = {.fd = far_end, .events = POLLIN};
    return poll(&unread, 1, 0) == 0;
}

static void reset(void) {
    torn |= length > 0;
    avr_reset(board);
    uart_takes = 1;
    tell("reset");
}

/* The edge of DTR. */
static void reset_when_opened(void) {
    char events[4096];
    if (openings < 0 || read(openings, events, sizeof events) <= 0) return;
    reset();
    bootloader_ms = BOOTLOADER_MS;
}

static void obey(void) {
    int in_mid_line = length >= MID_LINE_BYTES && !torn;
    if (ordered == STOP ? length > 0 : master < 0 || !in_mid_line || !is_drained()) return;
    if (ordered == UNPLUG) {
        unplug();
    } else if (ordered == RESET) {
        reset();
    } else {
        stopped = 1;
        tell("stopped");
    }
    ordered = NOTHING;
}

static void end(int status) {
    if (link_path) unlink(link_path);
    exit(status);
}

static void take_order(const char *order) {
    if (strcmp(order, "unplug") == 0) {
        ordered = UNPLUG;
    } else if (strcmp(order, "reset") == 0) {
        ordered = RESET;
    } else if (strcmp(order, "press") == 0) {
        reset();
    } else if (strcmp(order, "wire") == 0 && openings < 0) {
        openings = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        if (openings < 0) fail("inotify");
        if (master >= 0) watch_openings();
        tell("wired");
    } else if (strcmp(order, "stop") == 0) {
        ordered = STOP;
    } else if (strcmp(order, "plug") == 0 && master < 0) {
        plug();
    } else {
        fprintf(stderr, "not understood: %s\n", order);
        end(1);
    }
}

static void read_orders(void) {
    static char order[64];
    static size_t held;
    struct pollfd orders = {.fd = STDIN_FILENO, .events = POLLIN};
    while (poll(&orders, 1, 0) > 0) {
        char byte;
        if (read(STDIN_FILENO, &byte, 1) != 1) end(0);
        if (byte != '\n') {
            if (held < sizeof order - 1) order[held++] = byte;
            continue;
        }
        order[held] = 0;
        held = 0;
        take_order(order);
    }
}

/* As many bytes as the board's receiver takes. */
static void read_port(void) {
    char byte;
    while (uart_takes && master >= 0 && read(master, &byte, 1) == 1) avr_raise_irq(uart_input, (uint8_t)byte);
}

static void swallow_port(void) {
    char bytes[64];
    while (master >= 0 && read(master, bytes, sizeof bytes) > 0) {}
}

/* Whether the firmware goes on. */
static int run_until(avr_cycle_count_t cycle) {
    while (board->cycle < cycle) {
        int state = avr_run(board);
        if (state == cpu_Done || state == cpu_Crashed) return 0;
    }
    return 1;
}

static void behind_a_port(void) {
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;) {
        read_orders();
        reset_when_opened();
        if (bootloader_ms > 0) {
            bootloader_ms--;
            swallow_port();
        } else if (!stopped) {
            read_port();
            if (!run_until(board->cycle + SLICE_CYCLES)) {
                fprintf(stderr, "the firmware has stopped\n");
                end(1);
            }
        }
        if (ordered != NOTHING) obey();
        next.tv_nsec += 1000000;
        if (next.tv_nsec >= 1000000000) next.tv_nsec -= 1000000000, next.tv_sec++;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: board FIRMWARE.elf [LINK]\n");
        return 2;
    }
    link_path = argc == 3 ? argv[2] : NULL;
    power_up(argv[1]);
    if (link_path) {
        plug();
        behind_a_port();
    }
    while (board->cycle - last_byte_at < QUIET_CYCLES && run_until(board->cycle + SLICE_CYCLES)) {}
    return 0;
}
