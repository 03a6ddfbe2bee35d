# Keeps one program with a tag beyond the connection that started it: its input open, its last output in memory.
#
#   start FOLDER OWNER LIMIT STDIN WORD...   start a program, say what became of it in one line, and keep it
#   attach FOLDER                            join standard input and output with the keeper of a program
#
# Both ways go frames: a byte of kind, four of length, data. From the keeper: 0 hello (pid, stdin, dropped), 1 output,
# 2 errors, 3 the end (exit code, signal, dropped). To the keeper: 0 begin (attach, replay), 1 input, 2 end of input,
# 3 collected. One reader at a time; a new one takes the place of the old. Perl 5.18 with its core modules will do.
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use Fcntl qw(:flock);
use POSIX qw(setsid :sys_wait_h);

my ($mode, $folder, @rest) = @ARGV;
my $FULL = 65536;
my $UNCOLLECTED = 86400;    # seconds for which the end of a program waits for somebody to ask
$SIG{PIPE} = 'IGNORE';
$| = 1;
umask 077;

sub answer { print "$_[0]\n"; exit 0 }
sub frame { my ($kind, $data) = @_; return pack('CN', $kind, length $data) . $data }
sub write_file { open my $file, '>', $_[0] or return 0; print $file $_[1]; return close $file }
sub reach { chdir $folder or return; return IO::Socket::UNIX->new(Peer => 's') }

if ($mode eq 'attach') {
    my $keeper = reach() or answer('missing');
    print "ready\n";
    $keeper->blocking(0);
    my $waiting = '';
    while (1) {
        my $readers = IO::Select->new($keeper);
        $readers->add(\*STDIN) if $waiting eq '';
        my ($ready, $room) = IO::Select->select($readers, IO::Select->new($waiting eq '' ? () : $keeper), undef, undef);
        for my $one (@{$ready || []}) {
            my $data;
            my $got = sysread $one, $data, $FULL;
            next unless defined $got;
            exit 0 unless $got;
            if ($one == $keeper) {
                for (my $at = 0; $at < $got;) { $at += (syswrite(STDOUT, $data, $got - $at, $at) or exit 0) }
            } else {
                $waiting = $data;
            }
        }
        if ($waiting ne '' and @{$room || []}) {
            my $gone = syswrite $keeper, $waiting;
            substr($waiting, 0, $gone) = '' if defined $gone;
        }
    }
}

my ($owner, $limit, $stdin, @words) = @rest;
mkdir $folder;
chdir $folder or answer('failed');
# The lock says that a keeper lives, who may not have outlived a restart of the Mac.
open my $lock, '>>', 'owner' or answer('failed');
flock $lock, LOCK_EX | LOCK_NB or answer('taken');
unlink 's', 'keeper', 'pid';
truncate $lock, 0;
syswrite $lock, $owner;
my $listener = IO::Socket::UNIX->new(Local => 's', Listen => 5) or answer('failed');
pipe my $told, my $tell or answer('failed');
my $keeper = fork;
answer('failed') unless defined $keeper;
if ($keeper) {
    close $tell;
    my $line = <$told>;
    print defined $line ? $line : "failed\n";
    exit 0;
}
close $told;
setsid;
$0 = 'anvild keeper';    # in place of the program's own words, which may be looked for
write_file('keeper', $$) or exit 1;
open STDIN, '<', '/dev/null';
open STDOUT, '>', '/dev/null';
open STDERR, '>', '/dev/null';
sub leave { unlink 's', 'owner', 'keeper', 'pid'; chdir '/'; rmdir $folder; exit 0 }

pipe my $in_there, my $in;
pipe my $out, my $out_there;
pipe my $err, my $err_there;
my $pid = fork;
if (!$pid) {
    setsid;
    write_file('pid', $$) or POSIX::_exit(127);    # the start was taken back, and the folder has gone
    $SIG{PIPE} = 'DEFAULT';
    if ($stdin) { open STDIN, '<&', $in_there }
    open STDOUT, '>&', $out_there;
    open STDERR, '>&', $err_there;
    close $_ for $in, $in_there, $out, $out_there, $err, $err_there, $tell, $listener;
    chdir($ENV{HOME} || '/') or chdir '/';
    { exec {$words[0]} @words }
    POSIX::_exit(127);
}
close $_ for $in_there, $out_there, $err_there;
my $line = '';
while ($line !~ /\n/ and sysread $out, my $byte, 1) { $line .= $byte }
if ($line !~ /^pid /) {
    print $tell $line;
    leave();
}
print $tell $line;
close $tell;
close $in unless $stdin;

my %kinds = ($out => 1, $err => 2);
my $outputs = IO::Select->new($out, $err);
my (@kept, $size, $first, $cursor, $dropped) = ();
($size, $first, $cursor, $dropped) = (0, 0, 0, 0);
my ($input, $open, $closing) = ('', $stdin, 0);
my ($client, $begun, $position, $received, $sending, $end_sent);
my ($status, $done) = (undef, 0);
$in->blocking(0) if $open;

sub keep {
    my ($kind, $data) = @_;
    push @kept, [$kind, $data];
    $size += length $data;
    while ($size > $limit) {
        my $old = shift @kept;
        $size -= length $old->[1];
        $dropped += length $old->[1] if $first >= $cursor;
        $first++;
    }
}

sub let_go { close $client if $client; ($client, $begun) = (undef, 0) }

sub obey {
    while (length $received >= 5) {
        my ($kind, $length) = unpack 'CN', $received;
        return if length $received < 5 + $length;
        my $data = substr $received, 5, $length;
        substr($received, 0, 5 + $length) = '';
        if ($kind == 0) {
            ($begun, $position) = (1, $data eq 'replay' ? $first : $cursor);
            $sending .= frame(0, "$pid $open $dropped");
        } elsif ($kind == 1) {
            $input .= $data if $open;
        } elsif ($kind == 2) {
            $closing = 1;
        } elsif ($kind == 3 and $done) {
            leave();
        }
    }
}

while (1) {
    if (!defined $status and waitpid($pid, WNOHANG) == $pid) {
        $status = $?;
        kill 'KILL', -$pid;    # what the program has left in its group
    }
    if ($open and $closing and $input eq '') { close $in; $open = 0 }
    if ($client and $begun) {
        $position = $first if $position < $first;
        while (length $sending < $FULL and $position < $first + @kept) {
            $sending .= frame(@{$kept[$position - $first]});
            $position++;
        }
        if ($done and !$end_sent and $position == $first + @kept) {
            my $number = $status & 127;
            $sending .= frame(3, join ' ', $number ? 'signal' : 'code', $number || $status >> 8, $dropped);
            $end_sent = 1;
        }
        $cursor = $position if $sending eq '' and $position > $cursor;
    }
    my $readers = IO::Select->new($listener, $outputs->handles);
    $readers->add($client) if $client and length $input < $FULL;
    my $writers = IO::Select->new;
    $writers->add($client) if $client and $sending ne '';
    $writers->add($in) if $open and $input ne '';
    # A program's end is no event for select. Once it has ended, what others hold of its output is not waited for.
    my $patience = $done ? $UNCOLLECTED : defined $status ? 0.2 : $outputs->count ? 1 : 0.05;
    my @found = IO::Select->select($readers, $writers, undef, $patience);
    my ($ready, $room) = map { $_ || [] } @found[0, 1];
    leave() if $done and !@found and !$client;
    my $heard = 0;
    for my $one (@$ready) {
        if ($one == $listener) {
            let_go();
            $client = $listener->accept or next;
            $client->blocking(0);
            ($received, $sending, $end_sent) = ('', '', 0);
            last;    # what was ready of the old client is gone
        }
        my $data;
        my $got = sysread $one, $data, $FULL;
        if ($client and $one == $client) {
            if ($got) { $received .= $data; obey() }
            elsif (defined $got) { let_go() }
        } elsif ($got) {
            keep($kinds{$one}, $data);
            $heard = 1;
        } elsif (defined $got) {
            $outputs->remove($one);
            close $one;
        }
    }
    for my $one (@$room) {
        if ($open and $one == $in) {
            my $gone = syswrite $in, $input;
            if (defined $gone) { substr($input, 0, $gone) = '' }
            elsif ($!{EPIPE}) { close $in; ($open, $input) = (0, '') }
        } elsif ($client and $one == $client) {
            my $gone = syswrite $client, $sending;
            if (defined $gone) { substr($sending, 0, $gone) = '' }
            elsif ($!{EPIPE}) { let_go() }
        }
    }
    $done = 1 if !$done and defined $status and (!$outputs->count or (!$heard and !@$ready));
}
